package io.prinz.enricher.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.ServerCredentials;
import io.grpc.TlsServerCredentials;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Iterator;
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

  private static EnricherException failure(Connection connection, HeldService service, Duration timeout) {
    ExecutionException failed = assertThrows(ExecutionException.class, () -> score(connection, service, timeout));
    return assertInstanceOf(EnricherException.class, failed.getCause());
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
      Token token = new Token(file);
      assertEquals("one", token.value());
      Files.writeString(file, "two");
      long limit = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
      while (token.value().equals("one") && System.nanoTime() < limit) {
        Thread.onSpinWait();
      }
      assertEquals("two", token.value());
    }
  }

  /** Each call asks what supplies the token; where there is none, nothing is sent. */
  @Test
  void aTokenIsSupplied(@TempDir Path folder) throws Exception {
    try (HeldService service = new HeldService()) {
      Iterator<String> tokens = List.of("one", "two\n").iterator();
      Connection supplied = to(service.address()).token(tokens::next).build();
      for (String token : List.of("one", "two")) {
        assertEquals(2.0, score(supplied, service, Duration.ofSeconds(20)));
        assertEquals("Bearer " + token, service.authorizations.take());
      }
      Connection unreadable = to(service.address()).tokenFile(folder.resolve("none")).build();
      for (Connection none : List.of(supplied, unreadable, to(service.address()).token("se cret").build())) {
        String said = failure(none, service, Duration.ofSeconds(1)).getMessage();
        assertTrue(said.startsWith("UNAUTHENTICATED: there is no token to send: "), said);
        assertTrue(!said.contains("cret"), "it would be in logs");
      }
      assertTrue(service.authorizations.isEmpty());
    }
  }

  private static ServerCredentials shown(String name, TlsServerCredentials.ClientAuth clients) throws IOException {
    return TlsServerCredentials.newBuilder()
        .keyManager(pem(name + "-certificate").toFile(), pem(name + "-key").toFile())
        .trustManager(pem("authority").toFile())
        .clientAuth(clients)
        .build();
  }

  private static Path pem(String name) {
    return Path.of(System.getenv("PRINZ_TEST_CERTIFICATES"), name + ".pem");
  }

  private static Connection.Builder trusting(HeldService service) {
    return to(service.address()).tls(pem("authority"));
  }

  private static Connection.Builder as(String client, String key, HeldService service) {
    return trusting(service).certificate(pem(client + "-certificate"), pem(key + "-key"));
  }

  /** The call fails, as UNAVAILABLE, with a sentence that has these words. */
  private static void assertFault(String words, Connection.Builder connection, HeldService service) {
    String said = "";
    // A call is repeated for all of its time; on a busy machine a handshake alone may take half a second.
    for (long time = 500; time <= 16_000 && !said.startsWith("UNAVAILABLE: "); time *= 2) {
      said = failure(connection.build(), service, Duration.ofMillis(time)).getMessage();
    }
    assertTrue(said.startsWith("UNAVAILABLE: ") && said.contains(words), said);
  }

  /** A service may ask for the client's own certificate; another one, or none, is refused. */
  @Test
  @EnabledIfEnvironmentVariable(named = "PRINZ_TEST_CERTIFICATES", matches = ".+", disabledReason = "needs make test-nussknacker")
  void mutualTls() throws Exception {
    try (HeldService service = new HeldService(shown("server", TlsServerCredentials.ClientAuth.REQUIRE), 0)) {
      assertEquals(2.0, score(as("client", "client", service).build(), service, Duration.ofSeconds(20)));
      assertFault("may require a client certificate: ", trusting(service), service);
      for (String client : List.of("client-expired", "client-unsigned", "client-other")) {
        assertFault("may refuse the client's certificate: ", as(client, client, service), service);
      }
      assertFault("the key that of the certificate", as("client", "server", service), service);
    }
  }

  /** Over TLS a service is believed by its authority alone; what else is wrong is one sentence. */
  @Test
  @EnabledIfEnvironmentVariable(named = "PRINZ_TEST_CERTIFICATES", matches = ".+", disabledReason = "needs make test-nussknacker")
  void tls() throws Exception {
    try (HeldService service = new HeldService(shown("server", TlsServerCredentials.ClientAuth.NONE), 0)) {
      assertEquals(2.0, score(trusting(service).token("t").build(), service, Duration.ofSeconds(20)));
      assertEquals("Bearer t", service.authorizations.take());
      assertFault("no trusted CA signed the server's certificate", to(service.address()).tls(null), service);
      assertFault("certificate has other names", trusting(service).serverName("a.example"), service);
      assertFault("may require TLS: connect with TLS", to(service.address()), service);
    }
    String[][] faults = {
      {"server-expired", "the server's certificate has expired"},
      {"server-unsigned", "no trusted CA signed the server's certificate"},
      {"server-elsewhere", "certificate has other names"},
    };
    for (String[] fault : faults) {
      try (HeldService service = new HeldService(shown(fault[0], TlsServerCredentials.ClientAuth.NONE), 0)) {
        assertFault(fault[1], trusting(service), service);
      }
    }
    try (HeldService plain = new HeldService()) {
      assertFault("the server has no TLS at this address", trusting(plain), plain);
    }
  }

  /** A server that is no gRPC server says so in its own way. */
  @Test
  void aServerOfAnotherKind() throws Exception {
    String[][] faults = {
      {"HTTP/1.1 400 Bad Request\r\n\r\n", "does not use HTTP/2"},
      // An alert of TLS.
      {"\25\3\3\0\2\2\106", "the server requires TLS"},
    };
    for (String[] said : faults) {
      try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
        Thread server = new Thread(() -> answer(socket, said[0]), "answers");
        server.setDaemon(true);
        server.start();
        String address = "127.0.0.1:" + socket.getLocalPort();
        try (EnricherClient client = new EnricherClient(to(address).build())) {
          EnricherException error = assertThrows(EnricherException.class, () -> client.models(Duration.ofSeconds(5)));
          assertTrue(error.getMessage().contains(said[1]), error.getMessage());
        }
      }
    }
  }

  private static void answer(ServerSocket socket, String text) {
    while (!socket.isClosed()) {
      try (Socket accepted = socket.accept()) {
        accepted.getInputStream().read(new byte[1000]);
        accepted.getOutputStream().write(text.getBytes(StandardCharsets.ISO_8859_1));
      } catch (IOException closed) {
        // The test is over.
      }
    }
  }

  /** A file that TLS can't use is named when the client is made. */
  @Test
  @EnabledIfEnvironmentVariable(named = "PRINZ_TEST_CERTIFICATES", matches = ".+", disabledReason = "needs make test-nussknacker")
  void filesOfTls(@TempDir Path folder) throws IOException {
    Path damaged = Files.writeString(folder.resolve("ca.pem"), Files.readString(pem("authority")).substring(0, 200));
    Path certificate = pem("client-certificate");
    Object[][] faults = {
      {to("localhost:1").tls(damaged), "they must be undamaged PEM"},
      {to("localhost:1").tls(pem("client-key")), "client-key.pem has no certificate: "},
      {to("localhost:1").tls(null).certificate(certificate, certificate), "client-certificate.pem has no private key: "},
      {to("localhost:1").tls(null).certificate(certificate, pem("client-locked_key")), " has a password: "},
    };
    for (Object[] fault : faults) {
      Connection connection = ((Connection.Builder) fault[0]).build();
      String said = assertThrows(IllegalArgumentException.class, () -> new EnricherClient(connection)).getMessage();
      assertTrue(said.contains((String) fault[1]), said);
    }
  }
}
