package io.prinz.enricher.client;

import io.prinz.enricher.v1.ScoreRequest;
import io.prinz.enricher.values.Shape;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;

/** What all users of a connection share: its channels, threads and lanes. Ends when the last one lets go. */
final class Core {
  private static final Map<Connection, Core> SHARED = new ConcurrentHashMap<>();
  private static final int THREADS = 2;
  private static final int MOST_LANES = 10_000;
  private static final long END_NANOS = TimeUnit.SECONDS.toNanos(5);

  private final Connection connection;
  private final ThreadPoolExecutor callbacks;
  private final ScheduledThreadPoolExecutor timer;
  private final Channels channels;
  private final Sender sender;
  private final Map<LaneKey, Lane> lanes = new ConcurrentHashMap<>();
  private int users = 1;

  private Core(Connection connection) {
    this.connection = connection;
    callbacks =
        new ThreadPoolExecutor(
            THREADS, THREADS, 1, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), named("prinz-enricher-answers"));
    callbacks.allowCoreThreadTimeOut(true);
    timer = new ScheduledThreadPoolExecutor(1, named("prinz-enricher-timer"));
    timer.setRemoveOnCancelPolicy(true);
    Channels made = null;
    try {
      made = new Channels(connection, callbacks);
    } finally {
      if (made == null) {
        timer.shutdownNow();
        callbacks.shutdownNow();
      }
    }
    channels = made;
    sender = new Sender(channels, timer);
  }

  private static ThreadFactory named(String name) {
    AtomicInteger number = new AtomicInteger();
    return work -> {
      Thread thread = new Thread(work, name + "-" + number.incrementAndGet());
      thread.setDaemon(true);
      return thread;
    };
  }

  /** Gives the core of a connection, a new one where nobody uses it. Each user is to let go of it once. */
  static Core acquire(Connection connection) {
    return SHARED.compute(
        connection,
        (same, core) -> {
          if (core == null) {
            return new Core(connection);
          }
          core.users++;
          return core;
        });
  }

  void release() {
    Core[] ended = new Core[1];
    SHARED.computeIfPresent(
        connection,
        (same, core) -> {
          if (core == this && --core.users == 0) {
            ended[0] = core;
            return null;
          }
          return core;
        });
    if (ended[0] != null) {
      end();
    }
  }

  private void end() {
    lanes.values().forEach(Lane::close);
    channels.close();
    timer.shutdownNow();
    sender.close();
    boolean interrupted = false;
    try {
      channels.awaitEnd(END_NANOS);
      // What the callers' futures wait for was given to these threads.
      callbacks.shutdown();
      if (!callbacks.awaitTermination(END_NANOS, TimeUnit.NANOSECONDS)) {
        callbacks.shutdownNow();
      }
    } catch (InterruptedException stop) {
      interrupted = true;
      callbacks.shutdownNow();
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  Sender sender() {
    return sender;
  }

  ExecutorService callbacks() {
    return callbacks;
  }

  ScheduledExecutorService timer() {
    return timer;
  }

  /** Gives the lane of a form; the same for all users. */
  Lane lane(ScoreRequest head, Shape shape, int maxRows, Supplier<Form> form) {
    LaneKey key = new LaneKey(head, shape, maxRows);
    Lane lane = lanes.get(key);
    if (lane != null) {
      return lane;
    }
    if (lanes.size() >= MOST_LANES) {
      // Rows of ever other columns: each goes by itself, and leaves nothing behind.
      return new Lane(form.get(), sender, timer, maxRows);
    }
    return lanes.computeIfAbsent(key, absent -> new Lane(form.get(), sender, timer, maxRows));
  }

  private static final class LaneKey {
    private final ScoreRequest head;
    private final Shape shape;
    private final int maxRows;
    private final int hash;

    LaneKey(ScoreRequest head, Shape shape, int maxRows) {
      this.head = head;
      this.shape = shape;
      this.maxRows = maxRows;
      this.hash = Objects.hash(head, shape, maxRows);
    }

    @Override
    public boolean equals(Object other) {
      if (!(other instanceof LaneKey)) {
        return false;
      }
      LaneKey key = (LaneKey) other;
      return maxRows == key.maxRows && shape.equals(key.shape) && (head == key.head || head.equals(key.head));
    }

    @Override
    public int hashCode() {
      return hash;
    }
  }
}
