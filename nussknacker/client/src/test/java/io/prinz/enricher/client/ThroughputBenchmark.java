package io.prinz.enricher.client;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Scores events as an engine does: one thread hands them over, each a row, with so many in flight; a pool goes on with the
 * answers. Prints events per second and percentiles of the latency in milliseconds, one line of JSON a round.
 *
 * <p>Arguments: address, model, events in flight, seconds of a round, rounds. `make bench-nussknacker` runs it.
 */
public final class ThroughputBenchmark {
  private static final Duration LONG = Duration.ofSeconds(30);
  private static final int ENGINE_THREADS = 2;

  private ThroughputBenchmark() {}

  /** Runs the rounds after one that warms up. */
  public static void main(String[] arguments) throws Exception {
    int inFlight = Integer.parseInt(arguments[2]);
    double seconds = Double.parseDouble(arguments[3]);
    ModelReference model = ModelReference.ofDefault(arguments[1]);
    ExecutorService engine = Executors.newFixedThreadPool(ENGINE_THREADS);
    try (EnricherClient client = new EnricherClient(Connection.to(List.of(arguments[0])).build())) {
      var signature = client.signature(model, LONG);
      Scorer scorer = client.scorer(model, signature, Map.of(), List.of(), LONG);
      List<Map<String, Object>> rows = new ArrayList<>();
      for (int row = 0; row < 1000; row++) {
        Map<String, Object> values = new HashMap<>();
        for (var field : signature.getInputsList()) {
          values.put(field.getName(), row * 0.37 + values.size());
        }
        rows.add(values);
      }
      round(scorer, engine, rows, inFlight, seconds);
      for (int round = 0; round < Integer.parseInt(arguments[4]); round++) {
        System.out.println(round(scorer, engine, rows, inFlight, seconds));
      }
    } finally {
      engine.shutdownNow();
    }
  }

  private static String round(
      Scorer scorer, ExecutorService engine, List<Map<String, Object>> rows, int inFlight, double seconds)
      throws Exception {
    Semaphore free = new Semaphore(inFlight);
    AtomicLong failed = new AtomicLong();
    long began = System.nanoTime();
    long[] latencies = new long[1 << 22];
    int events = 0;
    while (System.nanoTime() - began < seconds * 1e9 && events < latencies.length) {
      free.acquire();
      int event = events++;
      long sent = System.nanoTime();
      scorer
          .score(rows.get(event % rows.size()), engine)
          .whenComplete(
              (outputs, error) -> {
                latencies[event] = System.nanoTime() - sent;
                if (error != null || !outputs.containsKey("output_0")) {
                  failed.incrementAndGet();
                }
                free.release();
              });
    }
    if (!free.tryAcquire(inFlight, 60, TimeUnit.SECONDS)) {
      throw new IllegalStateException("some events were never answered");
    }
    double took = (System.nanoTime() - began) / 1e9;
    Arrays.sort(latencies, 0, events);
    return String.format(
        java.util.Locale.ROOT,
        "{\"in_flight\": %d, \"events_per_second\": %.0f, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"failed\": %d}",
        inFlight, events / took, latencies[events / 2] / 1e6, latencies[events * 99 / 100] / 1e6, failed.get());
  }
}
