package io.prinz.enricher.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.prinz.enricher.v1.EnricherServiceProto;
import io.prinz.enricher.v1.Model;
import io.prinz.enricher.v1.Signature;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.avro.util.Utf8;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.io.TempDir;

/** The client before the real service with real models. */
@Timeout(180)
@EnabledIfEnvironmentVariable(named = "PRINZ_TEST_REGISTRY", matches = ".+", disabledReason = "needs make test-nussknacker")
class RealServiceTest {
  private static final Duration LONG = Duration.ofSeconds(60);
  private static final String WINE = "MLF-ElasticnetWineModel-1";
  private static final int EVENTS = 10_000;
  private static final int IN_FLIGHT = 200;

  private static ServiceProcess service;
  private static EnricherClient client;
  private static ExecutorService engine;

  @BeforeAll
  static void start() throws IOException, InterruptedException {
    service = new ServiceProcess(ServiceProcess.freePort(), "MLF-*", "--preload", "t*", "--preload", "moving");
    client = clientOf(service.address());
    engine = Executors.newFixedThreadPool(2);
  }

  @AfterAll
  static void stop() {
    client.close();
    service.close();
    engine.shutdownNow();
  }

  private static EnricherClient clientOf(String... addresses) {
    return new EnricherClient(Connection.to(List.of(addresses)).build());
  }

  private static Scorer scorer(EnricherClient client, ModelReference model, Duration timeout) throws EnricherException {
    return client.scorer(model, client.signature(model, LONG), Map.of(), List.of(), timeout);
  }

  private static Scorer scorer(String model) throws EnricherException {
    return scorer(client, ModelReference.ofDefault(model), LONG);
  }

  private static EnricherException failure(CompletableFuture<?> future) {
    ExecutionException failed = assertThrows(ExecutionException.class, () -> future.get(100, TimeUnit.SECONDS));
    return assertInstanceOf(EnricherException.class, failed.getCause());
  }

  private static Map<String, Object> wine(int number) throws EnricherException {
    Map<String, Object> row = new HashMap<>();
    int place = 1;
    for (var field : client.signature(ModelReference.ofDefault(WINE), LONG).getInputsList()) {
      row.put(field.getName(), number * 0.37 + place++);
    }
    return row;
  }

  /** By TLS, its certificate and a token a client gets what it asks for; each of them that is wrong has its sentence. */
  @Test
  void tlsCertificatesAndTokens(@TempDir Path temporary) throws Exception {
    Path folder = Path.of(System.getenv("PRINZ_TEST_CERTIFICATES"));
    Path ca = folder.resolve("authority.pem");
    String config = folder.resolve("prinz.toml").toString();
    try (ServiceProcess secured = new ServiceProcess(ServiceProcess.freePort(), WINE, "--config", config)) {
      Connection.Builder known =
          Connection.to(List.of(secured.address()))
              .tls(ca)
              .certificate(folder.resolve("client-certificate.pem"), folder.resolve("client-key.pem"));
      try (EnricherClient client = new EnricherClient(known.tokenFile(folder.resolve("token")).build())) {
        Scorer secret = scorer(client, ModelReference.ofDefault(WINE), LONG);
        Map<String, Object> scores = secret.score(wine(1), engine).get(60, TimeUnit.SECONDS);
        assertEquals(scorer(WINE).score(wine(1), engine).get(60, TimeUnit.SECONDS), scores);
      }
      Connection wrong = known.tokenFile(Files.writeString(temporary.resolve("token"), "another")).build();
      assertRefused("UNAUTHENTICATED", "TOKEN_INVALID: ", wrong);
      Connection.Builder unknown = Connection.to(List.of(secured.address()));
      assertRefused("UNAVAILABLE", "may require TLS", unknown.build());
      assertRefused("UNAVAILABLE", "may require a client certificate", unknown.tls(ca).build());
    }
  }

  private static void assertRefused(String code, String words, Connection connection) {
    try (EnricherClient refused = new EnricherClient(connection)) {
      EnricherException error = assertThrows(EnricherException.class, () -> refused.models(Duration.ofSeconds(2)));
      assertEquals(code, error.code());
      assertTrue(error.getMessage().contains(words), error.getMessage());
    }
  }

  /** The methods that are called are those of the contract. */
  @Test
  void methodsAreTheContracts() {
    var contract = EnricherServiceProto.getDescriptor().findServiceByName("EnricherService");
    assertEquals(Methods.SERVICE, contract.getFullName());
    for (var method : List.of(Methods.LIST_MODELS, Methods.GET_SIGNATURE, Methods.SCORE)) {
      assertTrue(contract.findMethodByName(method.getBareMethodName()) != null, method.getFullMethodName());
    }
  }

  /** All models are listed, each with what a form needs. */
  @Test
  void modelsAreListed() throws EnricherException {
    Map<String, Model> models =
        client.models(LONG).stream().collect(Collectors.toMap(Model::getName, model -> model));
    assertTrue(models.keySet().containsAll(List.of(WINE, "MLF-FraudDetection-3", "touchy", "moving")), models.toString());
    Model wine = models.get(WINE);
    assertEquals(11, wine.getVersions(0).getSignature().getInputsCount());
    assertEquals("1", wine.getAliasesOrThrow("champion"));
  }

  /** Ten thousand events, two hundred of them in flight: each gets the answer to its own row. */
  @Test
  void manyEventsGetTheirOwnAnswers() throws Exception {
    List<Map<String, Object>> rows = new ArrayList<>();
    for (int row = 0; row < 50; row++) {
      rows.add(ServiceProcess.seen("text " + row));
    }
    List<Object> alone = alone(scorer("touchy"), rows, "saw");
    List<Object> answers = scoreMany(scorer("touchy"), rows, "saw");
    for (int event = 0; event < EVENTS; event++) {
      assertEquals(alone.get(event % rows.size()), answers.get(event), "event " + event);
    }
  }

  /** The same of a linear model, whose sums over several rows may differ in their last bit from those of one. */
  @Test
  void manyEventsOfALinearModel() throws Exception {
    List<Map<String, Object>> rows = new ArrayList<>();
    for (int row = 0; row < 50; row++) {
      rows.add(wine(row));
    }
    List<Object> alone = alone(scorer(WINE), rows, "output_0");
    assertTrue(alone.stream().distinct().count() > 40, alone.toString());
    List<Object> answers = scoreMany(scorer(WINE), rows, "output_0");
    for (int event = 0; event < EVENTS; event++) {
      double wanted = (Double) alone.get(event % rows.size());
      assertEquals(wanted, (Double) answers.get(event), 1e-13 * Math.abs(wanted), "event " + event);
    }
  }

  private static List<Object> alone(Scorer scorer, List<Map<String, Object>> rows, String output) throws Exception {
    List<Object> answers = new ArrayList<>();
    for (Map<String, Object> row : rows) {
      answers.add(scorer.score(row, engine).get(60, TimeUnit.SECONDS).get(output));
    }
    return answers;
  }

  private static List<Object> scoreMany(Scorer scorer, List<Map<String, Object>> rows, String output) throws Exception {
    Semaphore free = new Semaphore(IN_FLIGHT);
    List<CompletableFuture<Object>> asked = new ArrayList<>();
    for (int event = 0; event < EVENTS; event++) {
      assertTrue(free.tryAcquire(60, TimeUnit.SECONDS), "no answer came");
      CompletableFuture<Object> answer =
          scorer.score(rows.get(event % rows.size()), engine).thenApply(outputs -> outputs.get(output));
      answer.whenComplete((outputs, error) -> free.release());
      asked.add(answer);
    }
    List<Object> answers = new ArrayList<>();
    for (CompletableFuture<Object> one : asked) {
      answers.add(one.get(60, TimeUnit.SECONDS));
    }
    return answers;
  }

  /** The same values in other classes of Java's are the same to the model; each answer is typed as the signature says. */
  @Test
  void classesOfJavaMakeNoDifference() throws Exception {
    Scorer scorer = scorer("touchy");
    String saw = (String) scorer.score(ServiceProcess.seen("text"), engine).get(60, TimeUnit.SECONDS).get("saw");
    assertTrue(saw.contains("9007199254740993") && saw.contains("2026, 11, 23") || saw.contains("2026-11-23"), saw);
    Map<String, Object> other = ServiceProcess.seen("text");
    LocalDateTime local = (LocalDateTime) other.get("a datetime");
    other.put("a double", new BigDecimal("0.1"));
    other.put("a long", BigInteger.valueOf((1L << 53) + 1));
    other.put("a integer", new BigDecimal("7.0"));
    other.put("a float", 0.5);
    other.put("a string", new Utf8("text"));
    other.put("a datetime", local.atOffset(ZoneOffset.UTC).withOffsetSameInstant(ZoneOffset.ofHours(5)));
    other.put("a binary", ByteBuffer.wrap(new byte[] {0, 1, -1}));
    other.put("perhaps a double", Double.NaN);
    other.put("series", List.of(1, new BigDecimal("2")));
    other.put("thing", Map.of("id", 5, "note", new Utf8("n")));
    assertEquals(saw, scorer.score(other, engine).get(60, TimeUnit.SECONDS).get("saw"));
    Map<String, Object> fraud = Map.of("age", "4", "gender", "F", "category", "es_transportation", "amount", 800);
    Object verdict = scorer("MLF-FraudDetection-3").score(fraud, engine).get(60, TimeUnit.SECONDS).get("output_0");
    assertInstanceOf(Integer.class, verdict);
  }

  /** Of many events that come together, only those fail that the model fails on, or that do not fit. */
  @Test
  void badEventsFailAlone() throws Exception {
    Scorer scorer = scorer("touchy");
    List<CompletableFuture<Map<String, Object>>> asked = new ArrayList<>();
    for (int event = 0; event < 300; event++) {
      Map<String, Object> row = ServiceProcess.seen(event % 100 == 50 ? "raise" : "text " + event);
      if (event % 100 == 60) {
        row.put("a long", "many");
      }
      asked.add(scorer.score(row, engine));
    }
    for (int event = 0; event < 300; event++) {
      if (event % 100 == 50) {
        EnricherException error = failure(asked.get(event));
        assertEquals("MODEL_ERROR", error.reason());
        assertFalse(error.getMessage().contains("hunter2"), error.getMessage());
      } else if (event % 100 == 60) {
        assertEquals("INVALID_INPUT: \"a long\" is text; wanted long", failure(asked.get(event)).getMessage());
      } else {
        String saw = (String) asked.get(event).get(100, TimeUnit.SECONDS).get("saw");
        assertTrue(saw.contains("'text " + event + "'"), saw);
      }
    }
  }

  /** An alias that moves is followed; once its signature is another one, that is what calls fail with. */
  @Test
  void anAliasMoves() throws Exception {
    ModelReference champion = ModelReference.ofAlias("moving", "champion");
    ServiceProcess.moveAlias("moving", "champion", "1");
    awaitSignature(champion, "n");
    Scorer scorer = scorer(client, champion, LONG);
    assertEquals(8L, scorer.score(Map.of("n", 4), engine).get(60, TimeUnit.SECONDS).get("product"));
    ServiceProcess.moveAlias("moving", "champion", "2");
    long limit = System.nanoTime() + LONG.toNanos();
    Object product = 8L;
    while (product.equals(8L) && System.nanoTime() < limit) {
      product = scorer.score(Map.of("n", 4), engine).get(60, TimeUnit.SECONDS).get("product");
    }
    assertEquals(12L, product);
    ServiceProcess.moveAlias("moving", "champion", "3");
    EnricherException error = null;
    while (error == null && System.nanoTime() < limit) {
      try {
        assertEquals(12L, scorer.score(Map.of("n", 4), engine).get(60, TimeUnit.SECONDS).get("product"));
      } catch (ExecutionException refused) {
        error = (EnricherException) refused.getCause();
      }
    }
    assertEquals("SIGNATURE_CHANGED", error == null ? "none" : error.reason());
    Signature changed = client.signature(champion, LONG);
    assertEquals("m", changed.getInputs(0).getName());
  }

  private static void awaitSignature(ModelReference model, String input) throws EnricherException {
    long limit = System.nanoTime() + LONG.toNanos();
    while (!client.signature(model, LONG).getInputs(0).getName().equals(input) && System.nanoTime() < limit) {
      Thread.onSpinWait();
    }
  }

  /** What is not there is said, by name. */
  @Test
  void whatIsNotThere() {
    EnricherException error =
        assertThrows(EnricherException.class, () -> client.signature(ModelReference.ofDefault("nobody"), LONG));
    assertEquals("MODEL_NOT_FOUND", error.reason());
    assertTrue(error.getMessage().contains("nobody"), error.getMessage());
    EnricherException output =
        assertThrows(
            EnricherException.class,
            () ->
                client.scorer(
                    ModelReference.ofDefault(WINE),
                    client.signature(ModelReference.ofDefault(WINE), LONG),
                    Map.of(),
                    List.of("other"),
                    LONG));
    assertEquals("INVALID_INPUT: other is not an output of this model", output.getMessage());
  }

  /** While the service is away calls wait within their time, or say that it is; once it is back they are answered. */
  @Test
  void theServiceIsStoppedAndStarted() throws Exception {
    int port = ServiceProcess.freePort();
    ServiceProcess first = new ServiceProcess(port, WINE);
    try (EnricherClient own = clientOf(first.address())) {
      Scorer patient = scorer(own, ModelReference.ofDefault(WINE), Duration.ofSeconds(120));
      Scorer hasty = scorer(own, ModelReference.ofDefault(WINE), Duration.ofMillis(300));
      Map<String, Object> row = wine(1);
      Object before = patient.score(row, engine).get(60, TimeUnit.SECONDS).get("output_0");
      first.close();
      EnricherException error = failure(hasty.score(row, engine));
      assertTrue(List.of("UNAVAILABLE", "DEADLINE_EXCEEDED").contains(error.code()), error.getMessage());
      for (Throwable cause = error; cause != null; cause = cause.getCause()) {
        assertFalse(cause instanceof java.net.ConnectException, "an engine would restart the job");
      }
      CompletableFuture<Map<String, Object>> waiting = patient.score(row, engine);
      try (ServiceProcess second = new ServiceProcess(port, WINE)) {
        assertEquals(before, waiting.get(120, TimeUnit.SECONDS).get("output_0"));
        assertEquals(before, patient.score(row, engine).get(60, TimeUnit.SECONDS).get("output_0"), second.address());
      }
    } finally {
      first.close();
    }
  }
}
