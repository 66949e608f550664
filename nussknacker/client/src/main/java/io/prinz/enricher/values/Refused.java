package io.prinz.enricher.values;

/** A value that does not fit its type; the message is that of a violation. Has no stack trace, which nobody reads. */
final class Refused extends Exception {
  private static final long serialVersionUID = 1L;

  static final String NULL = "is null, but a value is required";
  static final String NOT_WHOLE = "is not a whole number";
  static final String NOT_FINITE = "is NaN or infinite, which a whole number can't be";
  static final String NOT_UNICODE = "is not Unicode text";
  static final String KEY_NOT_UNICODE = "has a key that is not Unicode text";
  static final String NOT_ISO = "is not an ISO-8601 date and time";
  static final String TOO_FINE = "has digits finer than microseconds";
  static final String TOO_FAR = "is a date and time outside the range of 64 bits";
  static final String UNKNOWN_PROPERTY = "is not a property of this record";
  static final String MISSING_PROPERTY = "is missing, but is required";
  static final String UNKNOWN_COLUMN = "is no input of this model";
  static final String MISSING_COLUMN = "is missing, but is required";
  static final String BINARY_IN_ANY = "is binary, which a value of any type can't hold";
  static final String INSTANT_IN_ANY = "is a timestamp, which a value of any type can't hold";
  static final String INEXACT_DECIMAL = "is a decimal that a floating point number can't tell";
  static final String TOO_DEEP = "is nested deeper than " + JavaValues.MAX_DEPTH + " levels";

  Refused(String description) {
    super(description, null, false, false);
  }

  static Refused outOfRange(String wanted) {
    return new Refused("is outside the range of " + wanted);
  }

  static Refused inexact(String wanted, int bits) {
    return new Refused("is a whole number beyond 2^" + bits + ", inexact as " + wanted);
  }

  static Refused wrongType(String got, String wanted) {
    return new Refused("is " + got + "; wanted " + wanted);
  }

  static Refused wrongSize(long size) {
    return new Refused("does not have the declared length of " + size);
  }
}
