package io.prinz.enricher.client;

import io.prinz.enricher.v1.ScoreRequest;
import io.prinz.enricher.v1.Signature;
import io.prinz.enricher.values.Inputs;
import io.prinz.enricher.values.InvalidRow;
import io.prinz.enricher.values.Outputs;
import io.prinz.enricher.values.Params;
import io.prinz.enricher.values.Row;
import io.prinz.enricher.values.Violation;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;

/** Scores rows of one model, those of concurrent callers together. Safe for threads. */
public final class Scorer {
  /** The service takes 4096 rows of several callers in one message; fewer make smoother answers. */
  private static final int MAX_ROWS = 512;

  private final Core core;
  private final BooleanSupplier closed;
  private final ScoreRequest head;
  private final Inputs inputs;
  private final Outputs outputs;
  private final long timeout;

  Scorer(
      Core core,
      BooleanSupplier closed,
      ModelReference model,
      Signature signature,
      Map<String, ?> params,
      Collection<String> wanted,
      Duration timeout)
      throws EnricherException {
    this.core = core;
    this.closed = closed;
    this.inputs = new Inputs(signature);
    this.outputs = new Outputs(signature, wanted);
    this.timeout = timeout.toNanos();
    Set<String> known = signature.getOutputsList().stream().map(field -> field.getName()).collect(Collectors.toSet());
    for (String name : wanted) {
      if (!known.contains(name)) {
        throw invalid(List.of(new Violation(name, "is not an output of this model")), name + " is not an output of this model");
      }
    }
    try {
      head =
          ScoreRequest.newBuilder()
              .setModel(model.toMessage())
              .putAllParams(Params.admit(signature, params))
              .addAllOutputs(wanted)
              .setSignatureDigest(signature.getDigest())
              .setIndependentRows(true)
              .build();
    } catch (InvalidRow refused) {
      throw invalid(refused.violations(), refused.getMessage());
    }
  }

  /**
   * Scores a row. Never blocks, and never throws.
   *
   * @param row by the names of the inputs; an optional one may be missing
   * @param executor completes the future, and so runs what depends on it
   * @return the outputs by name, or an {@link EnricherException}; of a row that does not fit, with each of its faults and
   *     without asking the service
   */
  public CompletableFuture<Map<String, Object>> score(Map<String, ?> row, Executor executor) {
    if (closed.getAsBoolean()) {
      return CompletableFuture.failedFuture(EnricherException.closed());
    }
    Row admitted;
    try {
      admitted = inputs.admit(row);
    } catch (InvalidRow refused) {
      return CompletableFuture.failedFuture(invalid(refused.violations(), refused.getMessage()));
    }
    Call call = new Call(admitted, System.nanoTime() + timeout, executor);
    core.lane(head, admitted.shape(), MAX_ROWS, () -> new Form(head, inputs, outputs, admitted.shape())).join(call);
    return call.future();
  }

  private static EnricherException invalid(List<Violation> violations, String message) {
    return new EnricherException("INVALID_ARGUMENT", "INVALID_INPUT", message, violations, null);
  }
}
