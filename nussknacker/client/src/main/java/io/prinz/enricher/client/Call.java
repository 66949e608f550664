package io.prinz.enricher.client;

import io.grpc.Metadata;
import io.prinz.enricher.values.Row;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;

/** A caller, and its row. */
final class Call {
  final Row row;
  /** By {@code System.nanoTime()}. */
  final long deadline;

  /** Continue the caller's trace; null for none. */
  final Metadata trace = TraceHeaders.current();

  private final Executor executor;
  private final CompletableFuture<Map<String, Object>> future = new CompletableFuture<>();
  private final AtomicBoolean decided = new AtomicBoolean();

  Call(Row row, long deadline, Executor executor) {
    this.row = row;
    this.deadline = deadline;
    this.executor = executor;
  }

  CompletableFuture<Map<String, Object>> future() {
    return future;
  }

  /** Whether no answer is of use: there was one, the time was up, or the caller cancelled. */
  boolean isOver() {
    return decided.get() || future.isDone();
  }

  void answer(Map<String, Object> outputs) {
    onExecutor(() -> future.complete(outputs));
  }

  void fail(EnricherException error) {
    onExecutor(() -> future.completeExceptionally(error.own()));
  }

  private void onExecutor(Runnable completion) {
    // What was told first counts, whichever the executor comes to first.
    if (!decided.compareAndSet(false, true)) {
      return;
    }
    try {
      executor.execute(completion);
    } catch (RejectedExecutionException shutDown) {
      // The engine is ending; who still waits is told all the same.
      completion.run();
    }
  }
}
