package io.prinz.enricher.values;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.MathContext;
import java.math.RoundingMode;

/** Numbers into numbers: exactly, or not at all; save that a double into a float is rounded to the nearest. */
final class Numbers {
  private static final RoundingMode[] SHORTEST = {RoundingMode.HALF_EVEN, RoundingMode.UP};
  private static final int EXACT_DIGITS = 15;
  private static final int ENOUGH_DIGITS = 17;
  private static final int MOST_DIGITS_OF_LONG = 21;
  private static final double TWO_TO_63 = 0x1p63;
  private static final double HALF_MOST = 65520.0;

  private Numbers() {}

  /**
   * Brings a number to a whole type.
   *
   * @param value of the few classes of {@link JavaValues}, not null
   * @param least the type's least number
   * @param most the type's greatest number
   * @param wanted the type's name
   * @param nested whether the value is within another one
   */
  static long whole(Object value, long least, long most, String wanted, boolean nested) throws Refused {
    long whole;
    if (value instanceof Long) {
      whole = (Long) value;
    } else if (value instanceof Double) {
      double real = (Double) value;
      if (Double.isNaN(real) || Double.isInfinite(real)) {
        throw new Refused(Refused.NOT_FINITE);
      }
      if (real != Math.rint(real)) {
        throw new Refused(Refused.NOT_WHOLE);
      }
      if (real < -TWO_TO_63 || real >= TWO_TO_63) {
        throw Refused.outOfRange(wanted);
      }
      whole = (long) real;
    } else if (value instanceof BigDecimal) {
      whole = wholeOf((BigDecimal) value, wanted);
    } else if (value instanceof BigInteger) {
      throw Refused.outOfRange(wanted);
    } else {
      throw Refused.wrongType(nested ? JavaValues.nestedName(value) : JavaValues.name(value), wanted);
    }
    if (whole < least || whole > most) {
      throw Refused.outOfRange(wanted);
    }
    return whole;
  }

  private static long wholeOf(BigDecimal value, String wanted) throws Refused {
    if ((long) value.precision() - value.scale() > MOST_DIGITS_OF_LONG) {
      throw Refused.outOfRange(wanted);
    }
    if (value.signum() != 0 && value.stripTrailingZeros().scale() > 0) {
      throw new Refused(Refused.NOT_WHOLE);
    }
    try {
      return value.longValueExact();
    } catch (ArithmeticException beyond) {
      throw Refused.outOfRange(wanted);
    }
  }

  /**
   * Brings a number to a double; a null is NaN.
   *
   * @param bits up to which power of two the wanted type tells every whole number
   */
  static double real(Object value, int bits, String wanted, boolean nested) throws Refused {
    if (value instanceof Double) {
      return (Double) value;
    }
    if (value == null) {
      return Double.NaN;
    }
    if (value instanceof Long) {
      long whole = (Long) value;
      if (whole < -(1L << bits) || whole > 1L << bits) {
        throw Refused.inexact(wanted, bits);
      }
      return whole;
    }
    if (value instanceof BigInteger) {
      throw Refused.inexact(wanted, bits);
    }
    if (value instanceof BigDecimal) {
      return realOf((BigDecimal) value);
    }
    throw Refused.wrongType(nested ? JavaValues.nestedName(value) : JavaValues.name(value), wanted);
  }

  /** Brings a number to a float32; a double is rounded to the nearest, and refused where that is infinite. */
  static float single(Object value, String wanted, boolean nested) throws Refused {
    double real = real(value, 24, wanted, nested);
    float single = (float) real;
    if (Float.isInfinite(single) && !Double.isInfinite(real)) {
      throw Refused.outOfRange(wanted);
    }
    return single;
  }

  /** Brings a number to a float16, in a float; rounded to the nearest, ties to even, as IEEE 754 has it. */
  static float half(Object value, String wanted, boolean nested) throws Refused {
    double real = real(value, 11, wanted, nested);
    if (Double.isNaN(real) || Double.isInfinite(real) || real == 0.0) {
      return (float) real;
    }
    if (Math.abs(real) >= HALF_MOST) {
      throw Refused.outOfRange(wanted);
    }
    // Eleven bits of significand, and none below 2^-24, so a unit in the last place is 2^(exponent - 10).
    int exponent = Math.max(Math.getExponent(real), -14);
    double unit = Math.scalb(1.0, exponent - 10);
    return (float) (Math.rint(real / unit) * unit);
  }

  /** Gives the double that tells a decimal: the nearest, if its shortest decimal form is the decimal itself. */
  private static double realOf(BigDecimal value) throws Refused {
    double nearest = value.doubleValue();
    if (value.signum() == 0) {
      return nearest;
    }
    if (nearest == 0.0 || Double.isInfinite(nearest) || !tells(nearest, value)) {
      throw new Refused(Refused.INEXACT_DECIMAL);
    }
    return nearest;
  }

  private static boolean tells(double nearest, BigDecimal value) {
    BigDecimal shown = value.stripTrailingZeros();
    if (shown.precision() > ENOUGH_DIGITS) {
      return false;
    }
    if (shown.precision() <= EXACT_DIGITS && Math.abs(nearest) >= Double.MIN_NORMAL) {
      return true;
    }
    // Double.toString gives more digits than are needed before Java 19.
    BigDecimal exact = new BigDecimal(nearest);
    for (int digits = 1; digits <= ENOUGH_DIGITS; digits++) {
      // Above a power of two doubles lie twice as far apart as below it, so the next decimal up may be the one that reads
      // as it though the one below is nearer.
      for (RoundingMode mode : SHORTEST) {
        BigDecimal rounded = exact.round(new MathContext(digits, mode));
        if (rounded.doubleValue() == nearest) {
          return rounded.compareTo(value) == 0;
        }
      }
    }
    return false;
  }
}
