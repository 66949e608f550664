package io.prinz.enricher.values;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Avro's records, symbols and fixed bytes, known by their methods alone: the engine brings Avro, in a version of its own.
 */
abstract class AvroValues {
  private static final ClassValue<AvroValues> READERS =
      new ClassValue<>() {
        @Override
        protected AvroValues computeValue(Class<?> type) {
          return reader(type);
        }
      };

  private static final AvroValues NONE =
      new AvroValues() {
        @Override
        Object read(Object value) {
          return value;
        }
      };

  private AvroValues() {}

  /** Gives a record as a map, a symbol as text and fixed bytes as an array; anything else as it is. */
  static Object plain(Object value) {
    return READERS.get(value.getClass()).read(value);
  }

  abstract Object read(Object value);

  private static AvroValues reader(Class<?> type) {
    try {
      for (Class<?> above = type; above != null; above = above.getSuperclass()) {
        for (Class<?> face : above.getInterfaces()) {
          AvroValues found = byInterface(face);
          if (found != null) {
            return found;
          }
        }
      }
    } catch (ReflectiveOperationException notAvro) {
      return NONE;
    }
    return NONE;
  }

  private static AvroValues byInterface(Class<?> face) throws ReflectiveOperationException {
    switch (face.getName()) {
      case "org.apache.avro.generic.GenericRecord":
      case "org.apache.avro.generic.IndexedRecord":
        return new Records(face);
      case "org.apache.avro.generic.GenericFixed":
        return new Fixed(face);
      case "org.apache.avro.generic.GenericEnumSymbol":
        return new Symbols();
      default:
        for (Class<?> above : face.getInterfaces()) {
          AvroValues found = byInterface(above);
          if (found != null) {
            return found;
          }
        }
        return null;
    }
  }

  private static Object call(Method method, Object on, Object... arguments) {
    try {
      return method.invoke(on, arguments);
    } catch (IllegalAccessException | InvocationTargetException failed) {
      throw new IllegalStateException("an Avro value can't be read: " + failed.getCause(), failed);
    }
  }

  private static final class Records extends AvroValues {
    private final Method getSchema;
    private final Method getFields;
    private final Method get;
    private final Method name;

    Records(Class<?> face) throws ReflectiveOperationException {
      getSchema = face.getMethod("getSchema");
      Class<?> schema = getSchema.getReturnType();
      getFields = schema.getMethod("getFields");
      name = Class.forName(schema.getName() + "$Field", false, schema.getClassLoader()).getMethod("name");
      get = face.getMethod("get", int.class);
    }

    @Override
    Object read(Object value) {
      Map<String, Object> record = new LinkedHashMap<>();
      int place = 0;
      for (Object field : (List<?>) call(getFields, call(getSchema, value))) {
        record.put((String) call(name, field), call(get, value, place++));
      }
      return record;
    }
  }

  private static final class Fixed extends AvroValues {
    private final Method bytes;

    Fixed(Class<?> face) throws ReflectiveOperationException {
      bytes = face.getMethod("bytes");
    }

    @Override
    Object read(Object value) {
      return ByteBuffer.wrap((byte[]) call(bytes, value));
    }
  }

  private static final class Symbols extends AvroValues {
    @Override
    Object read(Object value) {
      return value.toString();
    }
  }
}
