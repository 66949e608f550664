package io.prinz.enricher.client;

import io.grpc.Attributes;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ClientStreamTracer;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * Sends requests; again, within the deadline, where the service is away or says when to come back. Never blocks.
 */
final class Sender {
  private static final long FIRST_PAUSE = TimeUnit.MILLISECONDS.toNanos(50);
  private static final long LONGEST_PAUSE = TimeUnit.SECONDS.toNanos(1);
  private static final long LEAST_LEFT = TimeUnit.MILLISECONDS.toNanos(1);

  private final Channels channels;
  private final ScheduledExecutorService timer;
  private final Set<Retry<?, ?>> retries = ConcurrentHashMap.newKeySet();

  Sender(Channels channels, ScheduledExecutorService timer) {
    this.channels = channels;
    this.timer = timer;
  }

  /** What becomes of a request; exactly one of them, once, and never in a thread of the network. */
  interface Outcome<R> {
    void answered(R response);

    void failed(EnricherException error);
  }

  /**
   * Sends a request.
   *
   * @param deadline by {@code System.nanoTime()}
   * @param trace headers that continue the caller's trace; null for none
   */
  <Q, R> void send(MethodDescriptor<Q, R> method, Q request, long deadline, Metadata trace, Outcome<R> outcome) {
    attempt(method, request, deadline, trace, outcome, 0, null);
  }

  private <Q, R> void attempt(
      MethodDescriptor<Q, R> method,
      Q request,
      long deadline,
      Metadata trace,
      Outcome<R> outcome,
      int earlier,
      EnricherException before) {
    Reached reached = new Reached();
    CallOptions options =
        CallOptions.DEFAULT
            .withCallCredentials(channels.token())
            .withDeadlineAfter(Math.max(0, deadline - System.nanoTime()), TimeUnit.NANOSECONDS)
            .withStreamTracerFactory(reached);
    Channel next = channels.next();
    Channel channel =
        trace == null ? next : ClientInterceptors.intercept(next, MetadataUtils.newAttachHeadersInterceptor(trace));
    ClientCalls.asyncUnaryCall(
        channel.newCall(method, options),
        request,
        new StreamObserver<R>() {
          private R response;

          @Override
          public void onNext(R value) {
            response = value;
          }

          @Override
          public void onError(Throwable failure) {
            EnricherException error = Errors.of(failure, reached.service ? null : channels.connection());
            if (!again(method, request, deadline, trace, outcome, earlier, error)) {
              // That the time was up while there was no connection again says less than why there was none.
              boolean away = before != null && !reached.service && Errors.isTooLate(error);
              outcome.failed(away ? before : error);
            }
          }

          @Override
          public void onCompleted() {
            outcome.answered(response);
          }
        });
  }

  private <Q, R> boolean again(
      MethodDescriptor<Q, R> method,
      Q request,
      long deadline,
      Metadata trace,
      Outcome<R> outcome,
      int earlier,
      EnricherException error) {
    if (!Errors.mayPass(error)) {
      return false;
    }
    long pause = pause(earlier, error);
    if (deadline - System.nanoTime() - pause < LEAST_LEFT) {
      return false;
    }
    Retry<Q, R> retry = new Retry<>(method, request, deadline, trace, outcome, earlier + 1, error);
    retries.add(retry);
    try {
      timer.schedule(retry, pause, TimeUnit.NANOSECONDS);
    } catch (RejectedExecutionException closed) {
      return !retries.remove(retry);
    }
    return true;
  }

  /** Fails what waits to be sent again; to be called once the timer was stopped. */
  void close() {
    for (Retry<?, ?> retry : retries) {
      if (retries.remove(retry)) {
        retry.outcome.failed(EnricherException.closed());
      }
    }
  }

  private long pause(int earlier, EnricherException error) {
    Duration told = error.retryAfter();
    if (told != null) {
      return told.toNanos();
    }
    if (Errors.isTransport(error) && earlier + 1 < channels.size()) {
      // Another address is there to be tried.
      return 0;
    }
    long pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE << Math.min(earlier, 10));
    // Clients that failed together are not to come back together.
    return pause / 2 + ThreadLocalRandom.current().nextLong(pause / 2 + 1);
  }

  /** Whether a request got as far as a connection. */
  private static final class Reached extends ClientStreamTracer.Factory {
    private volatile boolean service;

    @Override
    public ClientStreamTracer newClientStreamTracer(ClientStreamTracer.StreamInfo info, Metadata headers) {
      return new ClientStreamTracer() {
        @Override
        public void streamCreated(Attributes transport, Metadata sent) {
          service = true;
        }
      };
    }
  }

  /** A request that is sent again after a pause. */
  private final class Retry<Q, R> implements Runnable {
    private final MethodDescriptor<Q, R> method;
    private final Q request;
    private final long deadline;
    private final Metadata trace;
    private final Outcome<R> outcome;
    private final int earlier;
    private final EnricherException before;

    Retry(
        MethodDescriptor<Q, R> method,
        Q request,
        long deadline,
        Metadata trace,
        Outcome<R> outcome,
        int earlier,
        EnricherException before) {
      this.method = method;
      this.request = request;
      this.deadline = deadline;
      this.trace = trace;
      this.outcome = outcome;
      this.earlier = earlier;
      this.before = before;
    }

    @Override
    public void run() {
      if (!retries.remove(this)) {
        return;
      }
      if (Errors.isTransport(before)) {
        channels.reconnect();
      }
      attempt(method, request, deadline, trace, outcome, earlier, before);
    }
  }
}
