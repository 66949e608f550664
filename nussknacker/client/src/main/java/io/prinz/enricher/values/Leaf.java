package io.prinz.enricher.values;

import com.google.protobuf.ByteString;
import com.google.protobuf.NullValue;
import io.prinz.enricher.v1.Column;
import io.prinz.enricher.v1.ScalarType;
import io.prinz.enricher.v1.Value;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A type of single values: how one is checked, and in which kind of column it travels. */
abstract class Leaf {
  private static final Pattern DATETIME = Pattern.compile("datetime64(?:\\[(\\w+)])?");
  private static final long MILLION = 1_000_000L;

  final Column.ValuesCase kind;
  final String name;
  /** Whether a null is a value also where one is required: NaN of a floating point type, null of text. */
  final boolean takesNull;

  private Leaf(Column.ValuesCase kind, String name, boolean takesNull) {
    this.kind = kind;
    this.name = name;
    this.takesNull = takesNull;
  }

  /**
   * Checks a value.
   *
   * @param value of the few classes of {@link JavaValues}
   * @param required whether a null is refused, where the type does not take it
   * @param nested whether it is within another value
   * @return Boolean, Integer, Long (also for instants), Float, Double, String or ByteString, by the kind; or null
   */
  final Object admit(Object value, boolean required, boolean nested) throws Refused {
    if (value == null && kind != Column.ValuesCase.DOUBLES && kind != Column.ValuesCase.FLOATS) {
      if (required && !takesNull) {
        throw new Refused(Refused.NULL);
      }
      return null;
    }
    return check(value, nested);
  }

  abstract Object check(Object value, boolean nested) throws Refused;

  /** Writes what {@link #admit} gave as a value within another one. */
  final Value toValue(Object admitted) {
    Value.Builder value = Value.newBuilder();
    if (admitted == null) {
      return value.setNullValue(NullValue.NULL_VALUE).build();
    }
    switch (kind) {
      case BOOLS:
        return value.setBoolValue((Boolean) admitted).build();
      case STRINGS:
        return value.setStringValue((String) admitted).build();
      case BINARIES:
        return value.setBytesValue((ByteString) admitted).build();
      case TIMESTAMPS:
        return value.setTimestampValue((Long) admitted).build();
      case INT32S:
      case INT64S:
        return value.setInt64Value(((Number) admitted).longValue()).build();
      default:
        return value.setDoubleValue(((Number) admitted).doubleValue()).build();
    }
  }

  /** Gives the leaf of one of MLflow's scalar types; null where this client is older than the type. */
  static Leaf of(ScalarType type) {
    switch (type) {
      case SCALAR_TYPE_BOOLEAN:
        return new Exact(Column.ValuesCase.BOOLS, "boolean", Boolean.class, false);
      case SCALAR_TYPE_INTEGER:
        return new Whole(Column.ValuesCase.INT32S, "integer", Integer.MIN_VALUE, Integer.MAX_VALUE);
      case SCALAR_TYPE_LONG:
        return new Whole(Column.ValuesCase.INT64S, "long", Long.MIN_VALUE, Long.MAX_VALUE);
      case SCALAR_TYPE_FLOAT:
        return new Real(Column.ValuesCase.FLOATS, "float", 24);
      case SCALAR_TYPE_DOUBLE:
        return new Real(Column.ValuesCase.DOUBLES, "double", 53);
      case SCALAR_TYPE_STRING:
        return new Exact(Column.ValuesCase.STRINGS, "string", String.class, true);
      case SCALAR_TYPE_BINARY:
        return new Exact(Column.ValuesCase.BINARIES, "binary", ByteString.class, false);
      case SCALAR_TYPE_DATETIME:
        return new Datetime("datetime", "us");
      default:
        return null;
    }
  }

  /** Gives the leaf of a tensor's elements, by their numpy name; null where the wire has no form for them. */
  static Leaf ofDtype(String dtype) {
    switch (dtype) {
      case "bool":
        return new Exact(Column.ValuesCase.BOOLS, dtype, Boolean.class, false);
      case "int8":
        return new Whole(Column.ValuesCase.INT32S, dtype, Byte.MIN_VALUE, Byte.MAX_VALUE);
      case "int16":
        return new Whole(Column.ValuesCase.INT32S, dtype, Short.MIN_VALUE, Short.MAX_VALUE);
      case "int32":
        return new Whole(Column.ValuesCase.INT32S, dtype, Integer.MIN_VALUE, Integer.MAX_VALUE);
      case "int64":
        return new Whole(Column.ValuesCase.INT64S, dtype, Long.MIN_VALUE, Long.MAX_VALUE);
      case "uint8":
        return new Whole(Column.ValuesCase.INT32S, dtype, 0, 0xff);
      case "uint16":
        return new Whole(Column.ValuesCase.INT32S, dtype, 0, 0xffff);
      case "uint32":
        return new Whole(Column.ValuesCase.INT64S, dtype, 0, 0xffffffffL);
      case "uint64":
        // The wire holds those of 63 bits.
        return new Whole(Column.ValuesCase.INT64S, dtype, 0, Long.MAX_VALUE);
      case "float16":
        return new Real(Column.ValuesCase.FLOATS, dtype, 11);
      case "float32":
        return new Real(Column.ValuesCase.FLOATS, dtype, 24);
      case "float64":
        return new Real(Column.ValuesCase.DOUBLES, dtype, 53);
      case "str":
      case "object":
        return new Exact(Column.ValuesCase.STRINGS, dtype, String.class, true);
      case "bytes":
        return new Exact(Column.ValuesCase.BINARIES, dtype, ByteString.class, false);
      default:
        Matcher datetime = DATETIME.matcher(dtype);
        return datetime.matches() ? new Datetime(dtype, datetime.group(1) == null ? "us" : datetime.group(1)) : null;
    }
  }

  /** Values of one class, as they are. */
  private static final class Exact extends Leaf {
    private final Class<?> type;

    Exact(Column.ValuesCase kind, String name, Class<?> type, boolean takesNull) {
      super(kind, name, takesNull);
      this.type = type;
    }

    @Override
    Object check(Object value, boolean nested) throws Refused {
      if (!type.isInstance(value)) {
        throw Refused.wrongType(nested ? JavaValues.nestedName(value) : JavaValues.name(value), name);
      }
      return value;
    }
  }

  /** Whole numbers. */
  private static final class Whole extends Leaf {
    private final long least;
    private final long most;

    Whole(Column.ValuesCase kind, String name, long least, long most) {
      super(kind, name, false);
      this.least = least;
      this.most = most;
    }

    @Override
    Object check(Object value, boolean nested) throws Refused {
      long whole = Numbers.whole(value, least, most, name, nested);
      return kind == Column.ValuesCase.INT32S ? (Object) (int) whole : (Object) whole;
    }
  }

  /** Floating point numbers. */
  private static final class Real extends Leaf {
    private final int bits;

    Real(Column.ValuesCase kind, String name, int bits) {
      super(kind, name, true);
      this.bits = bits;
    }

    @Override
    Object check(Object value, boolean nested) throws Refused {
      if (bits == 53) {
        return value instanceof Double ? value : (Object) Numbers.real(value, bits, name, nested);
      }
      return bits == 24 ? Numbers.single(value, name, nested) : Numbers.half(value, name, nested);
    }
  }

  /** Dates and times, as microseconds. */
  private static final class Datetime extends Leaf {
    private final String unit;

    Datetime(String name, String unit) {
      super(Column.ValuesCase.TIMESTAMPS, name, false);
      this.unit = unit;
    }

    @Override
    Object check(Object value, boolean nested) throws Refused {
      Object instant = value instanceof String ? Instants.parse((String) value) : value;
      if (!(instant instanceof Instants.Micros)) {
        throw Refused.wrongType(nested ? JavaValues.nestedName(value) : JavaValues.name(value), name);
      }
      long micros = ((Instants.Micros) instant).value;
      if ("ns".equals(unit) && (micros > Long.MAX_VALUE / 1000 || micros < -Long.MAX_VALUE / 1000)) {
        throw new Refused(Refused.TOO_FAR);
      }
      long step = "ms".equals(unit) ? 1000 : "us".equals(unit) || "ns".equals(unit) ? 1 : MILLION;
      if (micros % step != 0) {
        throw new Refused("is finer than " + name);
      }
      return micros;
    }
  }
}
