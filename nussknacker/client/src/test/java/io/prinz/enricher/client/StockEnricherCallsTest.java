package io.prinz.enricher.client;

import static org.asynchttpclient.Dsl.asyncHttpClient;
import static org.asynchttpclient.Dsl.config;
import static org.asynchttpclient.Dsl.post;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.net.ConnectException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.asynchttpclient.AsyncCompletionHandlerBase;
import org.asynchttpclient.AsyncHttpClient;
import org.asynchttpclient.DefaultAsyncHttpClientConfig;
import org.asynchttpclient.Response;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;

/**
 * The calls of Nussknacker's stock OpenAPI enricher, by its HTTP client, which sends a POST up to six times if the server
 * closes a connection without an answer. Waits for a minute, and so runs beside the others.
 */
@Timeout(600)
@Execution(ExecutionMode.CONCURRENT)
@EnabledIfEnvironmentVariable(named = "PRINZ_TEST_REGISTRY", matches = ".+", disabledReason = "needs make test-nussknacker")
class StockEnricherCallsTest {
  private static final int SENDERS = 200;
  private static final int ROUNDS = 6;

  /** As Nussknacker 1.18 sets it up; the rest are the client's own defaults, written out. */
  private static DefaultAsyncHttpClientConfig.Builder asNussknacker() {
    return config()
        .setConnectTimeout(10_000)
        .setRequestTimeout(60_000)
        .setReadTimeout(60_000)
        .setIoThreadsCount(20)
        .setUseNativeTransport(false)
        .setFollowRedirect(false)
        .setKeepAlive(true)
        .setMaxRequestRetry(5)
        .setPooledConnectionIdleTimeout(60_000);
  }

  /**
   * Two hundred connections score, while the service ends and another one takes its place, and again after they have been
   * idle until the client closes them: each event is answered, and no service has seen it twice.
   *
   * <p>While nobody listens a connection is refused, and what then is to become of the event is for its sender to say. Here
   * it waits for the other service, as does each that has heard `Connection: close`.
   */
  @Test
  void everyEventIsSentOnce(@TempDir Path folder) throws Exception {
    int port = ServiceProcess.freePort();
    Path firstCalls = folder.resolve("first.jsonl");
    Path secondCalls = folder.resolve("second.jsonl");
    ExecutorService threads = Executors.newFixedThreadPool(SENDERS);
    ServiceProcess service = service(port, firstCalls);
    try (AsyncHttpClient client = asyncHttpClient(asNussknacker())) {
      Senders senders = new Senders(client, threads, url(port));
      senders.waitUntilLoaded();
      List<Future<?>> rounds = senders.start("before");
      senders.underWay.get(200, TimeUnit.SECONDS);
      long connections = client.getClientStats().getTotalConnectionCount();
      assertTrue(connections > SENDERS / 2, connections + " connections");
      service.close();
      service = service(port, secondCalls);
      senders.waitUntilLoaded();
      senders.restarted.complete(null);
      join(rounds);
      long idleSince = System.nanoTime();
      while (client.getClientStats().getTotalConnectionCount() > 0) {
        Thread.sleep(100);
      }
      assertTrue(System.nanoTime() - idleSince > TimeUnit.SECONDS.toNanos(59), "the service was first to close");
      join(senders.start("after"));
      service.close();
      Map<String, Integer> seen = new TreeMap<>();
      count(firstCalls, seen);
      assertTrue(seen.size() > SENDERS, seen.size() + " events before the restart");
      count(secondCalls, seen);
      seen.values().removeIf(times -> times == 1);
      assertEquals(Map.of(), seen, "the client has tried " + senders.retries + " times again");
    } finally {
      service.close();
      threads.shutdownNow();
    }
  }

  private static ServiceProcess service(int port, Path calls) throws IOException, InterruptedException {
    return new ServiceProcess(
        ServiceProcess.freePort(),
        Map.of("PRINZ_API__PORT", Integer.toString(port), "PRINZ_AUDIT__OUTPUT", calls.toString()),
        "mirror");
  }

  /** Finds the path of the operation as Nussknacker does, in the document. */
  private static String url(int port) throws IOException, InterruptedException {
    String root = "http://127.0.0.1:" + port;
    HttpRequest request = HttpRequest.newBuilder(URI.create(root + "/nussknacker/openapi.json")).build();
    HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    String body = client.send(request, HttpResponse.BodyHandlers.ofString()).body();
    for (Map.Entry<String, JsonElement> path :
        JsonParser.parseString(body).getAsJsonObject().getAsJsonObject("paths").entrySet()) {
      JsonObject operation = path.getValue().getAsJsonObject().getAsJsonObject("post");
      if (operation.get("operationId").getAsString().equals("score-mirror")) {
        return root + path.getKey();
      }
    }
    throw new IOException(body);
  }

  private static void join(List<Future<?>> rounds) throws Exception {
    for (Future<?> round : rounds) {
      round.get(200, TimeUnit.SECONDS);
    }
  }

  /** Counts how often a service has seen each event. */
  private static void count(Path calls, Map<String, Integer> seen) throws IOException {
    for (String line : Files.readAllLines(calls)) {
      JsonObject call = JsonParser.parseString(line).getAsJsonObject();
      if (call.has("request_id") && !call.get("request_id").getAsString().isEmpty()) {
        seen.merge(call.get("request_id").getAsString(), 1, Integer::sum);
      }
    }
  }

  private static String row(String number, String at) {
    return "\"n\":" + number + ",\"at\":\"" + at + "\",\"note\":null}";
  }

  /** Senders of events, each of which waits for its answer before it sends the next. */
  private static final class Senders {
    private final AsyncHttpClient client;
    private final ExecutorService threads;
    private final String url;
    private final AtomicInteger retries = new AtomicInteger();
    private final AtomicInteger numbers = new AtomicInteger();
    private final AtomicInteger answered = new AtomicInteger();
    private final CompletableFuture<Void> underWay = new CompletableFuture<>();
    private final CompletableFuture<Void> restarted = new CompletableFuture<>();

    Senders(AsyncHttpClient client, ExecutorService threads, String url) {
      this.client = client;
      this.threads = threads;
      this.url = url;
    }

    List<Future<?>> start(String name) {
      List<Future<?>> rounds = new ArrayList<>();
      for (int sender = 0; sender < SENDERS; sender++) {
        String ids = name + "-" + sender + "-";
        rounds.add(
            threads.submit(
                () -> {
                  try {
                    for (int round = 0; round < ROUNDS; round++) {
                      send(ids + round);
                    }
                  } catch (Throwable lost) {
                    underWay.completeExceptionally(lost);
                    throw lost;
                  }
                  return null;
                }));
      }
      return rounds;
    }

    /** Sends rows that nobody counts. */
    void waitUntilLoaded() throws Exception {
      String body = "{" + row("1", "2026-11-30T03:35:00+01:00");
      var request = post(url).setHeader("Content-Type", "application/json").setBody(body).build();
      while (client.executeRequest(request).get().getStatusCode() == 503) {
        Thread.sleep(100);
      }
    }

    private void send(String id) throws Exception {
      String number = Long.toString((1L << 53) + 1 + 2L * numbers.incrementAndGet());
      // Nussknacker writes the offset of the author's value, and a whole BigDecimal with zeros from 1.19 on.
      String body = "{" + row(number + ".000", "2026-11-30T03:35:00+01:00");
      Response response = null;
      while (response == null) {
        var request = post(url).setHeader("Content-Type", "application/json").setHeader("X-Request-Id", id);
        try {
          response = client.executeRequest(request.setBody(body).build(), new Counting()).get();
        } catch (ExecutionException failed) {
          if (!(failed.getCause() instanceof ConnectException) || restarted.isDone()) {
            throw failed;
          }
          restarted.get();
        }
      }
      String answer = "{\"modelVersion\":\"1\"," + row(number, "2026-11-30T02:35:00Z");
      assertEquals("200 " + answer, response.getStatusCode() + " " + response.getResponseBody());
      if (answered.incrementAndGet() == SENDERS * ROUNDS / 3) {
        underWay.complete(null);
      }
      if ("close".equals(response.getHeader("Connection"))) {
        restarted.get();
      }
    }

    private final class Counting extends AsyncCompletionHandlerBase {
      @Override
      public void onRetry() {
        retries.incrementAndGet();
      }
    }
  }
}
