package io.prinz.enricher.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.prinz.enricher.values.Violation;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;

/** Reads the errors of the wire. */
final class Errors {
  private static final Set<String> ONE_ROWS =
      Set.of(
          "INVALID_INPUT",
          "BATCH_TOO_LARGE",
          "DECODED_TOO_LARGE",
          "MODEL_ERROR",
          "OUTPUT_MISMATCH",
          "MESSAGE_TOO_LARGE");

  private Errors() {}

  /**
   * Reads a failed call with the details that came with it.
   *
   * @param unreached the connection, where none could be made for the call; else null
   */
  static EnricherException of(Throwable failure, Connection unreached) {
    Status status = Status.fromThrowable(failure);
    boolean away = status.getCode() == Status.Code.UNAVAILABLE || status.getCode() == Status.Code.INTERNAL;
    String fault = away && unreached != null ? ConnectionFaults.of(status, unreached) : null;
    if (fault != null) {
      return new EnricherException(status.getCode().name(), "", fault);
    }
    String reason = "";
    List<Violation> violations = new ArrayList<>();
    Duration retryAfter = null;
    com.google.rpc.Status details = StatusProto.fromThrowable(failure);
    try {
      for (Any detail : details == null ? List.<Any>of() : details.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          reason = detail.unpack(ErrorInfo.class).getReason();
        } else if (detail.is(RetryInfo.class)) {
          com.google.protobuf.Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        } else if (detail.is(BadRequest.class)) {
          for (BadRequest.FieldViolation one : detail.unpack(BadRequest.class).getFieldViolationsList()) {
            violations.add(new Violation(one.getField(), one.getDescription()));
          }
        }
      }
    } catch (InvalidProtocolBufferException damaged) {
      // What the status itself says is left, and is enough.
      violations.clear();
    }
    return new EnricherException(status.getCode().name(), reason, message(status), violations, retryAfter);
  }

  private static String message(Status status) {
    String told = status.getDescription() == null ? "the call failed" : status.getDescription();
    // Netty says why a connection can't be made in its exception alone.
    Throwable cause = status.getCause();
    return cause == null || cause.getMessage() == null ? told : told + " (" + cause.getMessage() + ")";
  }

  /** Tells whether the same request may succeed in a moment. */
  static boolean mayPass(EnricherException error) {
    return error.code().equals("UNAVAILABLE") || error.code().equals("RESOURCE_EXHAUSTED") && error.retryAfter() != null;
  }

  /** Tells whether the service was not reached, rather than busy. */
  static boolean isTransport(EnricherException error) {
    return error.code().equals("UNAVAILABLE") && error.reason().isEmpty();
  }

  /** Tells whether the time was up before the service said anything. */
  static boolean isTooLate(EnricherException error) {
    return error.code().equals("DEADLINE_EXCEEDED") && error.reason().isEmpty();
  }

  /** Tells whether a message of several callers may have failed for what one of them sent, or for their number. */
  static boolean mayBeOneRows(EnricherException error) {
    // Without a reason RESOURCE_EXHAUSTED is gRPC's own: the message is too large.
    return ONE_ROWS.contains(error.reason()) || error.code().equals("RESOURCE_EXHAUSTED") && error.reason().isEmpty();
  }
}
