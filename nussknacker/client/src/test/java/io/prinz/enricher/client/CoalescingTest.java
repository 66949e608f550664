package io.prinz.enricher.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status;
import io.prinz.enricher.client.HeldService.Held;
import io.prinz.enricher.v1.ScoreResponse;
import java.io.IOException;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Which rows travel together, and what becomes of them when something goes wrong. */
@Timeout(60)
class CoalescingTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  private HeldService service;
  private EnricherClient client;
  private ExecutorService engine;

  @BeforeEach
  void start() throws IOException {
    service = new HeldService();
    client = new EnricherClient(Connection.to(List.of(service.address())).build());
    engine = Executors.newFixedThreadPool(2, work -> new Thread(work, "engine"));
  }

  @AfterEach
  void stop() {
    client.close();
    service.close();
    engine.shutdownNow();
  }

  private Scorer scorer(Duration timeout) throws EnricherException {
    return scorer(client, timeout);
  }

  private static Scorer scorer(EnricherClient client, Duration timeout) throws EnricherException {
    return client.scorer(ModelReference.ofDefault("m"), HeldService.SIGNATURE, Map.of(), List.of(), timeout);
  }

  private List<CompletableFuture<Map<String, Object>>> ask(Scorer scorer, int from, int until) {
    List<CompletableFuture<Map<String, Object>>> asked = new ArrayList<>();
    for (int x = from; x < until; x++) {
      asked.add(scorer.score(Map.of("x", (double) x), engine));
    }
    return asked;
  }

  private static EnricherException failure(CompletableFuture<?> future) {
    ExecutionException failed = assertThrows(ExecutionException.class, () -> future.get(20, TimeUnit.SECONDS));
    return (EnricherException) failed.getCause();
  }

  /** The first leaves at once and alone; who comes meanwhile leaves together, and each gets the answer to its own row. */
  @Test
  void whoComesMeanwhileLeavesTogether() throws Exception {
    List<CompletableFuture<Map<String, Object>>> first = ask(scorer(LONG), 0, 1);
    Held alone = service.next();
    List<CompletableFuture<Map<String, Object>>> others = ask(scorer(LONG), 1, 11);
    assertEquals(List.of(0.0), alone.rows());
    assertTrue(alone.request.getIndependentRows());
    assertEquals(HeldService.SIGNATURE.getDigest(), alone.request.getSignatureDigest());
    alone.answer();
    // Behind a message that takes long, some of them left already.
    List<Double> seen = new ArrayList<>();
    while (seen.size() < 10) {
      Held more = service.next();
      seen.addAll(more.rows());
      more.answer();
    }
    assertEquals(List.of(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0), seen);
    assertEquals(0.0, first.get(0).get().get("y"));
    for (int row = 0; row < 10; row++) {
      assertEquals(2.0 * (row + 1), others.get(row).get().get("y"));
    }
  }

  /** A message that takes long does not hold up those that come later. */
  @Test
  void aSlowMessageHoldsNobodyUp() throws Exception {
    ask(scorer(LONG), 0, 1);
    Held slow = service.next();
    CompletableFuture<Map<String, Object>> later = ask(scorer(LONG), 1, 2).get(0);
    service.next().answer();
    assertEquals(2.0, later.get(20, TimeUnit.SECONDS).get("y"));
    slow.answer();
  }

  /** Answers are handed out by the caller's executor, not by a thread of the network. */
  @Test
  void theCallersExecutorCompletes() throws Exception {
    CompletableFuture<String> thread =
        ask(scorer(LONG), 0, 1).get(0).thenApply(answer -> Thread.currentThread().getName());
    service.next().answer();
    assertEquals("engine", thread.get(20, TimeUnit.SECONDS));
    CompletableFuture<String> failed =
        ask(scorer(LONG), 0, 1).get(0).handle((answer, error) -> Thread.currentThread().getName());
    service.next().refuse(Status.Code.NOT_FOUND, "MODEL_NOT_FOUND", -1);
    assertEquals("engine", failed.get(20, TimeUnit.SECONDS));
  }

  /** After a shared message was refused for what may be one row's fault, each goes alone, and only that one fails. */
  @Test
  void oneBadRowFailsAlone() throws Exception {
    ask(scorer(LONG), 100, 101);
    Held first = service.next();
    List<CompletableFuture<Map<String, Object>>> asked = ask(scorer(LONG), 0, 40);
    first.answer();
    while (asked.stream().anyMatch(one -> !one.isDone())) {
      Held message = service.messages.poll(50, TimeUnit.MILLISECONDS);
      if (message == null) {
        continue;
      }
      if (message.rows().contains(7.0)) {
        message.refuse(Status.Code.INTERNAL, "MODEL_ERROR", -1);
      } else {
        message.answer();
      }
    }
    for (int row = 0; row < 40; row++) {
      if (row == 7) {
        assertEquals("MODEL_ERROR", failure(asked.get(row)).reason());
      } else {
        assertEquals(2.0 * row, asked.get(row).get().get("y"));
      }
    }
  }

  /** What the service was too busy for is sent again when it said; what it refuses for good is not. */
  @Test
  void busyIsTriedAgain() throws Exception {
    CompletableFuture<Map<String, Object>> asked = ask(scorer(LONG), 3, 4).get(0);
    service.next().refuse(Status.Code.RESOURCE_EXHAUSTED, "OVERLOADED", 5);
    service.next().refuse(Status.Code.UNAVAILABLE, "SHUTTING_DOWN", 5);
    service.next().answer();
    assertEquals(6.0, asked.get(20, TimeUnit.SECONDS).get("y"));
    for (Status.Code code : List.of(Status.Code.FAILED_PRECONDITION, Status.Code.RESOURCE_EXHAUSTED)) {
      CompletableFuture<Map<String, Object>> refused = ask(scorer(LONG), 3, 4).get(0);
      service.next().refuse(code, "SOME_REASON", -1);
      assertEquals(code.name(), failure(refused).code());
      assertEquals("SOME_REASON: refused", failure(refused).getMessage());
      assertNull(service.messages.poll(), "it was sent again");
    }
  }

  /** A service that was away for a moment, and then too slow, is told as too slow. */
  @Test
  void slowAfterAMomentAway() throws Exception {
    CompletableFuture<Map<String, Object>> asked = ask(scorer(Duration.ofMillis(500)), 3, 4).get(0);
    service.next().refuse(Status.Code.UNAVAILABLE, "SHUTTING_DOWN", 5);
    service.next();
    assertEquals("DEADLINE_EXCEEDED", failure(asked).code());
  }

  /** Where the service says to come back after the deadline, its reason is told at once. */
  @Test
  void noWaitingForWhatComesTooLate() throws Exception {
    CompletableFuture<Map<String, Object>> asked = ask(scorer(Duration.ofSeconds(20)), 3, 4).get(0);
    service.next().refuse(Status.Code.UNAVAILABLE, "MODEL_LOADING", 60_000);
    EnricherException error = failure(asked);
    assertEquals("MODEL_LOADING", error.reason());
    assertEquals(Duration.ofSeconds(60), error.retryAfter());
  }

  /** Each call has its own deadline, whatever it travels with and behind. */
  @Test
  void aDeadlineIsKept() throws Exception {
    CompletableFuture<Map<String, Object>> patient = ask(scorer(LONG), 0, 1).get(0);
    Held held = service.next();
    CompletableFuture<Map<String, Object>> hasty = ask(scorer(Duration.ofMillis(50)), 1, 2).get(0);
    assertEquals("DEADLINE_EXCEEDED", failure(hasty).code());
    assertFalse(patient.isDone());
    held.answer();
    assertEquals(0.0, patient.get(20, TimeUnit.SECONDS).get("y"));
  }

  /** An answer of other rows than were sent fails its calls, rather than being handed to the wrong ones. */
  @Test
  void anAnswerOfOtherRowsIsNobodys() throws Exception {
    CompletableFuture<Map<String, Object>> asked = ask(scorer(LONG), 0, 1).get(0);
    service.next().answer(ScoreResponse.getDefaultInstance());
    assertTrue(failure(asked).getMessage().contains("not what was asked for"), failure(asked).getMessage());
  }

  /** A service that is not there is UNAVAILABLE once the time is up, without the exception that restarts a job. */
  @Test
  void aServiceThatIsNotThere() throws Exception {
    int port;
    try (ServerSocket socket = new ServerSocket(0)) {
      port = socket.getLocalPort();
    }
    try (EnricherClient away = new EnricherClient(Connection.to(List.of("127.0.0.1:" + port)).build())) {
      EnricherException error = failure(scorer(away, Duration.ofMillis(600)).score(Map.of("x", 1.0), engine));
      assertEquals("UNAVAILABLE", error.code(), error.getMessage());
      for (Throwable cause = error; cause != null; cause = cause.getCause()) {
        assertFalse(cause instanceof java.net.ConnectException, "an engine would restart the job");
      }
      // Started at last, it is found within the time of a call.
      CompletableFuture<Map<String, Object>> asked = scorer(away, LONG).score(Map.of("x", 4.0), engine);
      try (HeldService late = new HeldService(io.grpc.InsecureServerCredentials.create(), port)) {
        late.next().answer();
        assertEquals(8.0, asked.get(20, TimeUnit.SECONDS).get("y"));
      }
    }
  }

  /** Of two addresses both are called; where one goes away, no call is lost. */
  @Test
  void ofTwoAddressesOneMayGo() throws Exception {
    HeldService other = new HeldService();
    List<String> addresses = List.of(service.address(), other.address());
    try (EnricherClient both = new EnricherClient(Connection.to(addresses).build())) {
      Scorer scorer = scorer(both, LONG);
      for (HeldService turn : List.of(service, other)) {
        CompletableFuture<Map<String, Object>> asked = scorer.score(Map.of("x", 1.0), engine);
        turn.next().answer();
        assertEquals(2.0, asked.get(20, TimeUnit.SECONDS).get("y"));
      }
      other.close();
      for (int call = 0; call < 4; call++) {
        CompletableFuture<Map<String, Object>> asked = scorer.score(Map.of("x", 1.0), engine);
        service.next().answer();
        assertEquals(2.0, asked.get(20, TimeUnit.SECONDS).get("y"));
      }
    } finally {
      other.close();
    }
  }

  /** Clients of one connection share it; the last that is closed fails what is on its way, and leaves no thread. */
  @Test
  void closeLeavesNothing() throws Exception {
    Connection connection = Connection.to(List.of(service.address())).build();
    EnricherClient second = new EnricherClient(connection);
    Scorer scorer = scorer(second, LONG);
    CompletableFuture<Map<String, Object>> underway = scorer.score(Map.of("x", 1.0), engine);
    Held held = service.next();
    CompletableFuture<Map<String, Object>> waiting = scorer.score(Map.of("x", 2.0), engine);
    client.close();
    client.close();
    assertFalse(underway.isDone(), "another client still uses it");
    second.close();
    assertEquals("CANCELLED", failure(underway).code());
    assertEquals("CANCELLED", failure(waiting).code());
    assertEquals("CANCELLED", failure(scorer.score(Map.of("x", 1.0), engine)).code());
    assertThrows(EnricherException.class, () -> second.models(LONG));
    held.answer();
    service.close();
    long limit = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
    while (!ours().isEmpty() && System.nanoTime() < limit) {
      Thread.onSpinWait();
    }
    assertEquals(Set.of(), ours());
  }

  private static Set<String> ours() {
    return Thread.getAllStackTraces().keySet().stream()
        .map(Thread::getName)
        .filter(name -> name.startsWith("prinz-enricher") || name.startsWith("grpc"))
        .collect(Collectors.toSet());
  }

  /** Who waits for a service that is away learns that the client was closed, and does not wait forever. */
  @Test
  void closeEndsTheWaiting() throws Exception {
    service.close();
    CompletableFuture<EnricherException> listing =
        CompletableFuture.supplyAsync(() -> assertThrows(EnricherException.class, () -> client.models(LONG)), engine);
    CompletableFuture<Map<String, Object>> asked = ask(scorer(LONG), 0, 1).get(0);
    assertThrows(java.util.concurrent.TimeoutException.class, () -> asked.get(300, TimeUnit.MILLISECONDS));
    client.close();
    assertEquals("CANCELLED", failure(asked).code());
    EnricherException told = listing.get(20, TimeUnit.SECONDS);
    assertTrue(Set.of("CANCELLED", "UNAVAILABLE").contains(told.code()), told.getMessage());
  }

  /** A row that does not fit is refused without a message; a cancelled call is not sent any more. */
  @Test
  void whatNeedNotTravelDoesNot() throws Exception {
    EnricherException error = failure(scorer(LONG).score(Map.of("x", "one"), engine));
    assertEquals("INVALID_INPUT", error.reason());
    assertEquals("INVALID_INPUT: x is text; wanted double", error.getMessage());
    assertNull(service.messages.poll(), "nothing was sent");
    ask(scorer(LONG), 0, 1);
    Held held = service.next();
    List<CompletableFuture<Map<String, Object>>> asked = ask(scorer(LONG), 1, 3);
    boolean cancelled = asked.get(0).cancel(false);
    held.answer();
    List<Double> seen = new ArrayList<>();
    while (!seen.contains(2.0)) {
      Held more = service.next();
      seen.addAll(more.rows());
      more.answer();
    }
    assertTrue(cancelled);
    assertEquals(4.0, asked.get(1).get(20, TimeUnit.SECONDS).get("y"));
  }
}
