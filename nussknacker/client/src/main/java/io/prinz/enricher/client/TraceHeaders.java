package io.prinz.enricher.client;

import io.grpc.Metadata;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;

/**
 * The headers that continue a caller's trace, {@code traceparent} and {@code tracestate}, where the application has
 * OpenTelemetry's API. It is looked for once; the global instance, which an application may set but once, is left alone.
 */
final class TraceHeaders {
  private static final boolean AVAILABLE = isAvailable();

  private TraceHeaders() {}

  private static boolean isAvailable() {
    try {
      Api.current();
      return true;
    } catch (LinkageError absent) {
      return false;
    }
  }

  /** Gives the headers of who calls now; null where the thread is in no trace. */
  static Metadata current() {
    return AVAILABLE ? Api.current() : null;
  }

  /** Apart, so that nothing of OpenTelemetry is linked before it is known to be there. */
  private static final class Api {
    static Metadata current() {
      Context context = Context.current();
      if (!Span.fromContext(context).getSpanContext().isValid()) {
        return null;
      }
      Metadata headers = new Metadata();
      W3CTraceContextPropagator.getInstance()
          .inject(
              context,
              headers,
              (carrier, key, value) -> carrier.put(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER), value));
      return headers;
    }
  }
}
