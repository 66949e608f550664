package io.prinz.enricher.values;

/** An answer that is not what was asked for: a fault of the service, or of what stands between. */
public final class InvalidAnswer extends Exception {
  private static final long serialVersionUID = 1L;

  InvalidAnswer(String message) {
    super(message);
  }
}
