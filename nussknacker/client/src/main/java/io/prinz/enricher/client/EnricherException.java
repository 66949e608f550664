package io.prinz.enricher.client;

import io.prinz.enricher.values.Violation;
import java.time.Duration;
import java.util.List;

/**
 * A call failed.
 *
 * <p>It has no cause that tells of the connection: to an engine a {@code java.net.ConnectException} in the chain means that
 * the whole job is to be started again, which a model service that is away for a moment is no reason for.
 */
public final class EnricherException extends Exception {
  private static final long serialVersionUID = 1L;

  private final String code;
  private final String reason;
  private final transient List<Violation> violations;
  private final Duration retryAfter;

  EnricherException(String code, String reason, String message, List<Violation> violations, Duration retryAfter) {
    super((reason.isEmpty() ? code : reason) + ": " + message);
    this.code = code;
    this.reason = reason;
    this.violations = List.copyOf(violations);
    this.retryAfter = retryAfter;
  }

  EnricherException(String code, String reason, String message) {
    this(code, reason, message, List.of(), null);
  }

  private EnricherException(EnricherException other) {
    super(other.getMessage());
    this.code = other.code;
    this.reason = other.reason;
    this.violations = other.violations();
    this.retryAfter = other.retryAfter;
  }

  /** Gives an error for one of several callers, with a stack trace of its own. */
  EnricherException own() {
    return new EnricherException(this);
  }

  /** The gRPC status code, such as {@code INVALID_ARGUMENT}. */
  public String code() {
    return code;
  }

  /** The service's reason, such as {@code MODEL_NOT_FOUND}; empty where it was not the service that refused. */
  public String reason() {
    return reason;
  }

  /** The faults of the row; empty where it was not refused for them. */
  public List<Violation> violations() {
    return violations == null ? List.of() : violations;
  }

  /** After how long a retry makes sense; null where the service named nothing. */
  public Duration retryAfter() {
    return retryAfter;
  }

  static EnricherException tooLate() {
    return new EnricherException("DEADLINE_EXCEEDED", "", "there was no answer within the timeout");
  }

  static EnricherException closed() {
    return new EnricherException("CANCELLED", "", "the client was closed");
  }
}
