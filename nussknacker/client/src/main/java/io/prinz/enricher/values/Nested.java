package io.prinz.enricher.values;

import com.google.protobuf.ByteString;
import com.google.protobuf.NullValue;
import io.prinz.enricher.v1.Field;
import io.prinz.enricher.v1.ListValue;
import io.prinz.enricher.v1.RecordValue;
import io.prinz.enricher.v1.TensorType;
import io.prinz.enricher.v1.Type;
import io.prinz.enricher.v1.Value;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Lists, maps, records, arrays and values of any type, checked and written in one go. */
final class Nested {
  static final Value NULL = Value.newBuilder().setNullValue(NullValue.NULL_VALUE).build();

  private final Faults faults;
  private final boolean takesNulls;

  /**
   * @param faults takes what is refused
   * @param takesNulls whether required text and floating point numbers may be null, as in a column
   */
  Nested(Faults faults, boolean takesNulls) {
    this.faults = faults;
    this.takesNulls = takesNulls;
  }

  /**
   * Checks a value against its type.
   *
   * @param raw as it came from the scenario
   * @param type what is wanted
   * @param required whether a null is refused, where the type does not take it
   * @param path where it is
   * @return the value as it travels; nothing that is right where a fault was noted
   */
  Value admit(Object raw, Type type, boolean required, Path path) {
    return admit(raw, type, required, path, 0);
  }

  private Value admit(Object raw, Type type, boolean required, Path path, int depth) {
    try {
      if (depth > JavaValues.MAX_DEPTH) {
        throw new Refused(Refused.TOO_DEEP);
      }
      Object value = JavaValues.plain(raw);
      switch (type.getKindCase()) {
        case SCALAR:
          return leaf(Leaf.of(type.getScalar()), value, required);
        case ANY:
          return any(value, path, depth);
        case TENSOR:
          return tensor(value, type.getTensor(), 1, path);
        default:
          if (value == null) {
            if (required) {
              throw new Refused(Refused.NULL);
            }
            return NULL;
          }
          return container(value, type, path, depth);
      }
    } catch (Refused refused) {
      faults.add(path, refused.getMessage());
      return NULL;
    }
  }

  private Value leaf(Leaf leaf, Object value, boolean required) throws Refused {
    if (leaf == null) {
      throw new Refused("is of a type that this client is too old for");
    }
    if (value == null && required && !takesNulls) {
      throw new Refused(Refused.NULL);
    }
    return leaf.toValue(leaf.admit(value, required, true));
  }

  private Value container(Object value, Type type, Path path, int depth) throws Refused {
    switch (type.getKindCase()) {
      case LIST:
        if (value instanceof List) {
          ListValue.Builder list = ListValue.newBuilder();
          int index = 0;
          for (Object one : (List<?>) value) {
            list.addValues(admit(one, type.getList().getItems(), true, path.element(index++), depth + 1));
          }
          return Value.newBuilder().setListValue(list).build();
        }
        throw Refused.wrongType(JavaValues.nestedName(value), "array");
      case MAP:
        if (value instanceof Map) {
          RecordValue.Builder map = RecordValue.newBuilder();
          for (Map.Entry<String, Object> one : entries((Map<?, ?>) value).entrySet()) {
            Type values = type.getMap().getValues();
            map.putFields(one.getKey(), admit(one.getValue(), values, true, path.key(one.getKey()), depth + 1));
          }
          return Value.newBuilder().setRecordValue(map).build();
        }
        throw Refused.wrongType(JavaValues.nestedName(value), "map");
      case RECORD:
        if (value instanceof Map) {
          return record(entries((Map<?, ?>) value), type.getRecord().getFieldsList(), path, depth);
        }
        throw Refused.wrongType(JavaValues.nestedName(value), "object");
      default:
        throw new Refused("is of a type that this client is too old for");
    }
  }

  private Value record(Map<String, Object> value, List<Field> fields, Path path, int depth) {
    RecordValue.Builder record = RecordValue.newBuilder();
    Set<String> unknown = new HashSet<>(value.keySet());
    for (Field field : fields) {
      Path at = path.property(field.getName());
      boolean given = unknown.remove(field.getName());
      if (!given) {
        if (field.getRequired()) {
          faults.add(at, Refused.MISSING_PROPERTY);
        }
        continue;
      }
      Object one = value.get(field.getName());
      // A null stays one, also of a floating point number.
      boolean isNull = one == null && !field.getRequired();
      record.putFields(
          field.getName(), isNull ? NULL : admit(one, field.getType(), field.getRequired(), at, depth + 1));
    }
    for (String name : unknown) {
      faults.add(path.property(name), Refused.UNKNOWN_PROPERTY);
    }
    return Value.newBuilder().setRecordValue(record).build();
  }

  /** Gives a map by its keys as text; Avro's keys are of a class of their own. */
  private static Map<String, Object> entries(Map<?, ?> map) throws Refused {
    Map<String, Object> entries = new LinkedHashMap<>();
    for (Map.Entry<?, ?> one : map.entrySet()) {
      Object key = one.getKey();
      if (!(key instanceof CharSequence) || !JavaValues.isUnicode(key.toString())) {
        throw new Refused(Refused.KEY_NOT_UNICODE);
      }
      if (entries.containsKey(key.toString())) {
        throw new Refused("has a key that another entry has too");
      }
      entries.put(key.toString(), one.getValue());
    }
    return entries;
  }

  private Value tensor(Object value, TensorType type, int dimension, Path path) throws Refused {
    if (dimension >= type.getShapeCount()) {
      return leaf(Leaf.ofDtype(type.getDtype()), value, true);
    }
    if (value == null) {
      throw new Refused(Refused.NULL);
    }
    if (!(value instanceof List)) {
      throw Refused.wrongType(JavaValues.nestedName(value), "array of " + type.getDtype());
    }
    List<?> list = (List<?>) value;
    long size = type.getShape(dimension);
    if (size >= 0 && list.size() != size) {
      throw Refused.wrongSize(size);
    }
    ListValue.Builder written = ListValue.newBuilder();
    int index = 0;
    for (Object one : list) {
      Path at = path.element(index++);
      try {
        written.addValues(tensor(JavaValues.plain(one), type, dimension + 1, at));
      } catch (Refused refused) {
        faults.add(at, refused.getMessage());
      }
    }
    return Value.newBuilder().setListValue(written).build();
  }

  private Value any(Object value, Path path, int depth) throws Refused {
    Value.Builder written = Value.newBuilder();
    if (value == null) {
      return NULL;
    }
    if (value instanceof Boolean) {
      return written.setBoolValue((Boolean) value).build();
    }
    if (value instanceof Long) {
      return written.setInt64Value((Long) value).build();
    }
    if (value instanceof Double) {
      return written.setDoubleValue((Double) value).build();
    }
    if (value instanceof String) {
      return written.setStringValue((String) value).build();
    }
    if (value instanceof BigInteger) {
      throw new Refused("is a whole number beyond 64 bits");
    }
    if (value instanceof BigDecimal) {
      return decimal((BigDecimal) value);
    }
    if (value instanceof ByteString) {
      throw new Refused(Refused.BINARY_IN_ANY);
    }
    if (value instanceof Instants.Micros) {
      throw new Refused(Refused.INSTANT_IN_ANY);
    }
    if (depth >= JavaValues.MAX_DEPTH) {
      throw new Refused(Refused.TOO_DEEP);
    }
    if (value instanceof List) {
      ListValue.Builder list = ListValue.newBuilder();
      int index = 0;
      for (Object one : (List<?>) value) {
        list.addValues(anyWithin(one, path.element(index++), depth));
      }
      return written.setListValue(list).build();
    }
    if (value instanceof Map) {
      Map<String, Value> fields = new HashMap<>();
      for (Map.Entry<String, Object> one : entries((Map<?, ?>) value).entrySet()) {
        fields.put(one.getKey(), anyWithin(one.getValue(), path.key(one.getKey()), depth));
      }
      return written.setRecordValue(RecordValue.newBuilder().putAllFields(fields)).build();
    }
    throw Refused.wrongType(JavaValues.nestedName(value), "any");
  }

  private Value anyWithin(Object raw, Path path, int depth) {
    try {
      return any(JavaValues.plain(raw), path, depth + 1);
    } catch (Refused refused) {
      faults.add(path, refused.getMessage());
      return NULL;
    }
  }

  /** A decimal without digits after the point is a whole number, any other a double that tells it. */
  private static Value decimal(BigDecimal value) throws Refused {
    if (value.scale() <= 0) {
      long whole = Numbers.whole(value, Long.MIN_VALUE, Long.MAX_VALUE, "any", true);
      return Value.newBuilder().setInt64Value(whole).build();
    }
    return Value.newBuilder().setDoubleValue(Numbers.real(value, 53, "any", true)).build();
  }
}
