package io.prinz.enricher.client;

import io.grpc.Metadata;
import io.prinz.enricher.v1.ScoreRequest;
import io.prinz.enricher.v1.ScoreResponse;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/**
 * The calls that may share messages, since they differ in their rows alone. The first leaves at once; those that come while
 * its message is on its way leave together in the next one. Nobody waits for a timer, except behind a message that takes
 * long: after {@code PATIENCE} another one leaves beside it.
 */
final class Lane {
  private static final long PATIENCE = TimeUnit.MILLISECONDS.toNanos(20);
  private static final int MOST_MESSAGES = 16;
  private static final int MOST_ALONE = 16;

  private final Form form;
  private final Sender sender;
  private final ScheduledExecutorService timer;
  private final int maxRows;

  private final ArrayDeque<Call> waiting = new ArrayDeque<>();
  private final List<Message> underway = new ArrayList<>();
  private final ArrayDeque<Call> alone = new ArrayDeque<>();
  private int outAlone;
  private long lastLeft;
  private boolean watched;
  private boolean closed;

  Lane(Form form, Sender sender, ScheduledExecutorService timer, int maxRows) {
    this.form = form;
    this.sender = sender;
    this.timer = timer;
    this.maxRows = maxRows;
  }

  /** Lets a call wait for its message, which leaves at once where none is on its way. */
  void join(Call call) {
    Message message = null;
    boolean late;
    synchronized (this) {
      late = closed;
      if (!late) {
        waiting.add(call);
        message = take();
      }
    }
    if (late) {
      call.fail(EnricherException.closed());
    }
    send(message);
  }

  /** Fails all who wait. */
  void close() {
    List<Call> left = new ArrayList<>();
    synchronized (this) {
      closed = true;
      left.addAll(waiting);
      left.addAll(alone);
      underway.forEach(message -> left.addAll(message.calls));
      waiting.clear();
      alone.clear();
    }
    left.forEach(call -> call.fail(EnricherException.closed()));
  }

  /** Takes the rows of those who have waited longest, where a message may leave now; else gives null. */
  private Message take() {
    if (!underway.isEmpty()
        && (underway.size() >= MOST_MESSAGES || System.nanoTime() - lastLeft < PATIENCE)) {
      return null;
    }
    List<Call> calls = new ArrayList<>(Math.min(waiting.size(), maxRows));
    long deadline = Long.MIN_VALUE;
    while (calls.size() < maxRows && !waiting.isEmpty()) {
      Call call = waiting.poll();
      if (!call.isOver()) {
        deadline = calls.isEmpty() || call.deadline - deadline > 0 ? call.deadline : deadline;
        calls.add(call);
      }
    }
    if (calls.isEmpty()) {
      return null;
    }
    Message message = new Message(calls, deadline);
    underway.add(message);
    lastLeft = System.nanoTime();
    if (!watched) {
      watched = watch();
    }
    return message;
  }

  private void send(Message message) {
    if (message != null) {
      send(message.calls, message.deadline, message);
    }
  }

  private void send(List<Call> calls, long deadline, Sender.Outcome<ScoreResponse> outcome) {
    ScoreRequest request;
    try {
      request = form.request(calls);
    } catch (RuntimeException unwritable) {
      outcome.failed(new EnricherException("INTERNAL", "", "the rows can't be written: " + unwritable));
      return;
    }
    // A message is a part of one trace: that of the first of its callers who is in any.
    Metadata trace = calls.stream().map(call -> call.trace).filter(Objects::nonNull).findFirst().orElse(null);
    sender.send(Methods.SCORE, request, deadline, trace, outcome);
  }

  private void landed(Message message) {
    Message next;
    synchronized (this) {
      underway.remove(message);
      next = take();
    }
    send(next);
  }

  private boolean watch() {
    try {
      timer.schedule(this::look, PATIENCE, TimeUnit.NANOSECONDS);
      return true;
    } catch (RejectedExecutionException closing) {
      return false;
    }
  }

  /** Looks, as long as messages are on their way, for calls whose time is up, and for those that waited long enough. */
  private void look() {
    List<Call> late = new ArrayList<>();
    Message next;
    synchronized (this) {
      long now = System.nanoTime();
      waiting.removeIf(call -> isLate(call, now, late));
      // What carries the message has its deadline too, and knows better why there is no answer.
      long then = now - 2 * PATIENCE;
      underway.forEach(message -> message.calls.forEach(call -> isLate(call, then, late)));
      alone.removeIf(call -> isLate(call, now, late));
      next = take();
      watched = (!underway.isEmpty() || !alone.isEmpty()) && watch();
    }
    late.forEach(call -> call.fail(EnricherException.tooLate()));
    send(next);
  }

  private static boolean isLate(Call call, long now, List<Call> late) {
    if (now - call.deadline < 0 || call.isOver()) {
      return false;
    }
    late.add(call);
    return true;
  }

  /** Sends calls again, each alone and some at a time, after a message of theirs was refused. */
  private void sendAlone(List<Call> calls) {
    synchronized (this) {
      alone.addAll(calls);
      if (!watched && !alone.isEmpty()) {
        watched = watch();
      }
    }
    for (int more = 0; more < MOST_ALONE; more++) {
      nextAlone();
    }
  }

  private void nextAlone() {
    Call call;
    synchronized (this) {
      do {
        call = outAlone < MOST_ALONE ? alone.poll() : null;
      } while (call != null && call.isOver());
      if (call == null) {
        return;
      }
      outAlone++;
    }
    send(List.of(call), call.deadline, new Alone(call));
  }

  private void answer(List<Call> calls, ScoreResponse response) {
    try {
      List<Map<String, Object>> rows = form.read(response, calls.size());
      for (int row = 0; row < calls.size(); row++) {
        calls.get(row).answer(rows.get(row));
      }
    } catch (EnricherException unreadable) {
      calls.forEach(call -> call.fail(unreadable));
    }
  }

  /** Rows on their way together. */
  private final class Message implements Sender.Outcome<ScoreResponse> {
    final List<Call> calls;
    final long deadline;

    Message(List<Call> calls, long deadline) {
      this.calls = calls;
      this.deadline = deadline;
    }

    @Override
    public void answered(ScoreResponse response) {
      answer(calls, response);
      landed(this);
    }

    @Override
    public void failed(EnricherException error) {
      if (calls.size() > 1 && Errors.mayBeOneRows(error)) {
        sendAlone(calls);
      } else {
        calls.forEach(call -> call.fail(error));
      }
      landed(this);
    }
  }

  /** A row on its way by itself. */
  private final class Alone implements Sender.Outcome<ScoreResponse> {
    private final Call call;

    Alone(Call call) {
      this.call = call;
    }

    @Override
    public void answered(ScoreResponse response) {
      answer(List.of(call), response);
      landedAlone();
    }

    @Override
    public void failed(EnricherException error) {
      call.fail(error);
      landedAlone();
    }

    private void landedAlone() {
      synchronized (Lane.this) {
        outAlone--;
      }
      nextAlone();
    }
  }
}
