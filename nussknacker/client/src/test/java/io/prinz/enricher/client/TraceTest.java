package io.prinz.enricher.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sun.net.httpserver.HttpServer;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import io.opentelemetry.api.trace.TraceFlags;
import io.opentelemetry.api.trace.TraceState;
import io.opentelemetry.context.Context;
import io.prinz.enricher.v1.Signature;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;

/** Calls continue the trace of who makes them. */
@Timeout(180)
@EnabledIfEnvironmentVariable(named = "PRINZ_TEST_REGISTRY", matches = ".+", disabledReason = "needs make test-nussknacker")
class TraceTest {
  private static final Duration LONG = Duration.ofSeconds(60);
  private static final String WINE = "MLF-ElasticnetWineModel-1";
  private static final String TRACE = "0af7651916cd43dd8448eb211c80319c";
  private static final String SPAN = "b7ad6b7169203331";
  private static final String REMOTE = "MLF-ElasticnetWineModel-2";
  private static final String METHOD = "prinz.enricher.v1.EnricherService/Score";

  /**
   * A call is a span of its caller's trace at the service, with the wait, the model call and the request to a remote
   * server; one in none is none.
   */
  @Test
  void aCallContinuesTheTraceOfItsCaller() throws Exception {
    assertNull(TraceHeaders.current());
    BlockingQueue<String> spans = new LinkedBlockingQueue<>();
    HttpServer receiver = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    receiver.createContext(
        "/v1/traces",
        exchange -> {
          // A protobuf message, in which ids are the bytes that they are and names are text.
          spans.add(new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.ISO_8859_1));
          exchange.sendResponseHeaders(200, -1);
          exchange.close();
        });
    BlockingQueue<String> parents = new LinkedBlockingQueue<>();
    receiver.createContext(
        "/" + REMOTE + "/invocations",
        exchange -> {
          String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
          Optional.ofNullable(exchange.getRequestHeaders().getFirst("traceparent")).ifPresent(parents::add);
          byte[] answer = predictions(body).getBytes(StandardCharsets.UTF_8);
          exchange.getResponseHeaders().set("Content-Type", "application/json");
          exchange.sendResponseHeaders(body.startsWith("{") ? 200 : 415, answer.length);
          exchange.getResponseBody().write(answer);
          exchange.close();
        });
    receiver.start();
    String here = "http://127.0.0.1:" + receiver.getAddress().getPort();
    Map<String, String> variables =
        Map.of(
            "OTEL_EXPORTER_OTLP_ENDPOINT", here,
            "OTEL_TRACES_SAMPLER", "parentbased_always_off",
            "OTEL_BSP_SCHEDULE_DELAY", "20",
            "PRINZ_ENDPOINTS__FARM__URLS", here,
            "PRINZ_ENDPOINTS__FARM__CONVENTION", "prinz",
            "PRINZ_ENDPOINTS__FARM__MODELS", REMOTE);
    try (ServiceProcess service = new ServiceProcess(ServiceProcess.freePort(), variables, WINE);
        EnricherClient client = new EnricherClient(Connection.to(List.of(service.address())).build())) {
      ModelReference model = ModelReference.ofDefault(WINE);
      Signature signature = client.signature(model, LONG);
      Map<String, Object> row = new HashMap<>();
      signature.getInputsList().forEach(field -> row.put(field.getName(), 0.5));
      Scorer scorer = client.scorer(model, signature, Map.of(), List.of(), LONG);
      Map<String, Object> scores = scorer.score(row, ForkJoinPool.commonPool()).get(60, TimeUnit.SECONDS);
      SpanContext caller =
          SpanContext.create(TRACE, SPAN, TraceFlags.getSampled(), TraceState.builder().put("a", "1").build());
      Context traced = Context.current().with(Span.wrap(caller));
      var again = traced.wrap(() -> scorer.score(row, ForkJoinPool.commonPool())).call();
      assertEquals(scores, again.get(60, TimeUnit.SECONDS));
      StringBuilder seen = new StringBuilder();
      receive(spans, seen, METHOD, "queue", "predict", "a=1", bytes(TRACE), bytes(SPAN));
      Scorer remote = client.scorer(ModelReference.ofDefault(REMOTE), signature, Map.of(), List.of(), LONG);
      assertEquals(Map.of("output_0", 5.0), remote.score(row, ForkJoinPool.commonPool()).get(60, TimeUnit.SECONDS));
      parents.clear();
      traced.wrap(() -> remote.score(row, ForkJoinPool.commonPool())).call().get(60, TimeUnit.SECONDS);
      String parent = parents.poll(60, TimeUnit.SECONDS);
      assertTrue(parent != null && parent.matches("00-" + TRACE + "-[0-9a-f]{16}-01"), parent);
      receive(spans, seen, "POST", bytes(parent.substring(36, 52)));
    } finally {
      receiver.stop(0);
    }
  }

  /** Receives spans until all of these texts were seen in them. */
  private static void receive(BlockingQueue<String> spans, StringBuilder seen, String... texts)
      throws InterruptedException {
    for (String text : texts) {
      while (seen.indexOf(text) < 0) {
        String more = spans.poll(60, TimeUnit.SECONDS);
        assertTrue(more != null, "no span with " + text);
        seen.append(more);
      }
    }
  }

  /** Answers 5.0 for each row of a request in one of MLflow's forms. */
  private static String predictions(String body) {
    String first = body.substring(Math.max(0, body.indexOf('[') + 1), Math.max(0, body.indexOf(']')));
    int rows = body.contains("\"data\":[[") ? body.split("\\],\\[").length : first.split(",").length;
    return "{\"predictions\":[" + String.join(",", Collections.nCopies(rows, "5.0")) + "]}";
  }

  private static String bytes(String hexadecimal) {
    StringBuilder text = new StringBuilder();
    for (int place = 0; place < hexadecimal.length(); place += 2) {
      text.append((char) Integer.parseInt(hexadecimal.substring(place, place + 2), 16));
    }
    return text.toString();
  }
}
