package io.prinz.enricher.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.InsecureServerCredentials;
import io.grpc.ServerCredentials;
import io.grpc.TlsServerCredentials;
import java.io.File;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.io.TempDir;

/** How a service is reached: TLS, tokens, and what is refused before anything is sent. */
@Timeout(60)
class ConnectionTest {
  private static Connection.Builder to(String address) {
    return Connection.to(List.of(address));
  }

  private static Object score(Connection connection, HeldService service, Duration timeout) throws Exception {
    try (EnricherClient client = new EnricherClient(connection)) {
      Scorer scorer =
          client.scorer(ModelReference.ofDefault("m"), HeldService.SIGNATURE, Map.of(), List.of(), timeout);
      CompletableFuture<Map<String, Object>> asked = scorer.score(Map.of("x", 1.0), Runnable::run);
      HeldService.Held held = service.messages.poll(timeout.toMillis(), TimeUnit.MILLISECONDS);
      if (held != null) {
        held.answer();
      }
      return asked.get(20, TimeUnit.SECONDS).get("y");
    }
  }

  /** A token is not sent for all to read, unless that is asked for. */
  @Test
  void aTokenIsKeptFromTheNetwork() {
    assertThrows(IllegalArgumentException.class, () -> to("models.example:50051").token("t").build());
    assertThrows(IllegalArgumentException.class, () -> to("dns:///models.example:50051").token("t").build());
    to("models.example:50051").token("t").tls(null).build();
    to("models.example:50051").token("t").allowInsecureToken().build();
    to("localhost:50051").token("t").build();
    to("[::1]:50051").token("t").build();
  }

  /** What makes no sense is refused when it is said. */
  @Test
  void whatMakesNoSense() {
    assertThrows(IllegalArgumentException.class, () -> Connection.to(List.of()).build());
    assertThrows(IllegalArgumentException.class, () -> to("http://host:1/").build());
    assertThrows(IllegalArgumentException.class, () -> to("").build());
    assertThrows(IllegalArgumentException.class, () -> to("localhost:1").serverName("x").build());
    assertThrows(IllegalArgumentException.class, () -> to("localhost:1").token("t").tokenFile(Path.of("t")).build());
    Connection unreadable = to("localhost:1").tls(Path.of("/nowhere.pem")).build();
    assertThrows(UncheckedIOException.class, () -> new EnricherClient(unreadable));
  }

  /** Equal connections are one, so that their clients share channels. */
  @Test
  void equalConnectionsAreOne() {
    assertEquals(to("localhost:1").token("t").build(), to("localhost:1").token("t").build());
    assertNotEquals(to("localhost:1").token("t").build(), to("localhost:1").token("u").build());
    assertTrue(!to("localhost:1").token("secret").build().toString().contains("secret"), "it would be in logs");
  }

  /** The token goes with each call, and is read again once its file was written to. */
  @Test
  void aTokenIsShown(@TempDir Path folder) throws Exception {
    Path file = Files.writeString(folder.resolve("token"), "one\n");
    try (HeldService service = new HeldService()) {
      assertEquals(2.0, score(to(service.address()).tokenFile(file).build(), service, Duration.ofSeconds(20)));
      assertEquals("Bearer one", service.authorizations.take());
      Token token = new Token("", file);
      assertEquals("one", token.value());
      Files.writeString(file, "two");
      Files.setLastModifiedTime(file, FileTime.fromMillis(System.currentTimeMillis() + 5000));
      long limit = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
      while (token.value().equals("one") && System.nanoTime() < limit) {
        Thread.onSpinWait();
      }
      assertEquals("two", token.value());
    }
  }

  /** Over TLS a service is believed by its authority alone, and may ask for the client's own certificate. */
  @Test
  @EnabledIfEnvironmentVariable(named = "PRINZ_TEST_CERTIFICATES", matches = ".+", disabledReason = "needs make test-nussknacker")
  void tls() throws Exception {
    Path folder = Path.of(System.getenv("PRINZ_TEST_CERTIFICATES"));
    Path authority = folder.resolve("authority.pem");
    File certificate = folder.resolve("server-certificate.pem").toFile();
    ServerCredentials mutual =
        TlsServerCredentials.newBuilder()
            .keyManager(certificate, folder.resolve("server-key.pem").toFile())
            .trustManager(authority.toFile())
            .clientAuth(TlsServerCredentials.ClientAuth.REQUIRE)
            .build();
    try (HeldService service = new HeldService(mutual, 0)) {
      Connection.Builder known =
          to(service.address())
              .tls(authority)
              .certificate(folder.resolve("client-certificate.pem"), folder.resolve("client-key.pem"));
      assertEquals(2.0, score(known.build(), service, Duration.ofSeconds(20)));
      Duration brief = Duration.ofMillis(1500);
      assertThrows(ExecutionException.class, () -> score(to(service.address()).tls(authority).build(), service, brief));
      assertThrows(ExecutionException.class, () -> score(to(service.address()).tls(null).build(), service, brief));
      assertThrows(ExecutionException.class, () -> score(to(service.address()).build(), service, brief));
    }
    try (HeldService plain = new HeldService(InsecureServerCredentials.create(), 0)) {
      assertThrows(ExecutionException.class, () -> score(to(plain.address()).tls(authority).build(), plain, Duration.ofMillis(1500)));
    }
  }
}
