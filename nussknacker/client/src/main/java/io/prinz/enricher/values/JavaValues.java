package io.prinz.enricher.values;

import com.google.protobuf.ByteString;
import java.lang.reflect.Array;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.util.AbstractList;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;

/**
 * What a scenario's values are, in few classes: null, Boolean, Long, BigInteger (beyond 64 bits), Double, BigDecimal,
 * String, ByteString, {@link Instants.Micros}, List and Map; of anything else, the object itself.
 */
final class JavaValues {
  /** How deep values may be nested. */
  static final int MAX_DEPTH = 32;

  private static final BigInteger LEAST = BigInteger.valueOf(Long.MIN_VALUE);
  private static final BigInteger MOST = BigInteger.valueOf(Long.MAX_VALUE);

  private JavaValues() {}

  /**
   * Gives a value in one of the few classes. What is within lists and maps stays as it is.
   *
   * @throws Refused an instant that microseconds can't tell, or text that is not Unicode
   */
  static Object plain(Object value) throws Refused {
    if (value == null || value instanceof Double || value instanceof Long || value instanceof Boolean) {
      return value;
    }
    if (value instanceof String) {
      return unicode((String) value);
    }
    if (value instanceof Number) {
      return number((Number) value);
    }
    Object read = AvroValues.plain(value);
    if (read instanceof CharSequence) {
      return unicode(read.toString());
    }
    if (read instanceof Map || read instanceof List || read instanceof ByteString) {
      return read;
    }
    if (read instanceof byte[]) {
      return ByteString.copyFrom((byte[]) read);
    }
    if (read instanceof ByteBuffer) {
      return ByteString.copyFrom(((ByteBuffer) read).duplicate());
    }
    if (read instanceof Collection) {
      return new ArrayList<>((Collection<?>) read);
    }
    if (read.getClass().isArray()) {
      return array(read);
    }
    Instants.Micros instant = Instants.of(read);
    return instant == null ? read : instant;
  }

  private static Object number(Number value) {
    if (value instanceof Integer || value instanceof Short || value instanceof Byte) {
      return value.longValue();
    }
    if (value instanceof Float) {
      return value.doubleValue();
    }
    if (value instanceof BigInteger) {
      BigInteger whole = (BigInteger) value;
      return whole.compareTo(LEAST) < 0 || whole.compareTo(MOST) > 0 ? whole : (Object) whole.longValue();
    }
    return value;
  }

  private static List<Object> array(Object array) {
    return new AbstractList<>() {
      @Override
      public Object get(int index) {
        return Array.get(array, index);
      }

      @Override
      public int size() {
        return Array.getLength(array);
      }
    };
  }

  private static String unicode(String text) throws Refused {
    if (!isUnicode(text)) {
      throw new Refused(Refused.NOT_UNICODE);
    }
    return text;
  }

  /** Tells whether text holds no half of a surrogate pair; protobuf would write a question mark in its place. */
  static boolean isUnicode(String text) {
    for (int at = 0; at < text.length(); at++) {
      char one = text.charAt(at);
      if (Character.isSurrogate(one)) {
        at++;
        if (!Character.isHighSurrogate(one) || at == text.length() || !Character.isLowSurrogate(text.charAt(at))) {
          return false;
        }
      }
    }
    return true;
  }

  /** Names the class of a value in a few words, where it is a column's own. */
  static String name(Object value) {
    if (value instanceof Long || value instanceof BigInteger) {
      return "a whole number";
    }
    if (value instanceof Double) {
      return "a floating point number";
    }
    if (value instanceof BigDecimal) {
      return "a decimal";
    }
    return nestedName(value);
  }

  /** Names the class of a value in a few words, where it is within another one. */
  static String nestedName(Object value) {
    if (value == null) {
      return "null";
    }
    if (value instanceof Boolean) {
      return "a boolean";
    }
    if (value instanceof Long || value instanceof BigInteger || value instanceof Double || value instanceof BigDecimal) {
      return "a number";
    }
    if (value instanceof String) {
      return "text";
    }
    if (value instanceof ByteString) {
      return "binary";
    }
    if (value instanceof Instants.Micros) {
      return "a timestamp";
    }
    if (value instanceof List) {
      return "a list";
    }
    if (value instanceof Map) {
      return "a record";
    }
    return "a " + value.getClass().getName();
  }
}
