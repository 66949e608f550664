package io.prinz.enricher.values;

import io.prinz.enricher.v1.Column;
import io.prinz.enricher.v1.ColumnBatch;
import io.prinz.enricher.v1.Field;
import io.prinz.enricher.v1.Signature;
import io.prinz.enricher.v1.Type;
import io.prinz.enricher.v1.Value;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads the outputs of a model as Java's own values, in the classes that the designer was told: Boolean, Integer, Long,
 * Float, Double, String, byte[], LocalDateTime (UTC), List and Map. Safe for threads.
 */
public final class Outputs {
  private final Map<String, Field> fields = new HashMap<>();

  /**
   * Reads a signature.
   *
   * @param signature of a model
   * @param wanted the names of the outputs that are asked for; empty for all
   */
  public Outputs(Signature signature, Collection<String> wanted) {
    for (Field field : signature.getOutputsList()) {
      if (wanted.isEmpty() || wanted.contains(field.getName())) {
        fields.put(field.getName(), field);
      }
    }
  }

  /**
   * Reads an answer.
   *
   * @param batch as it came
   * @param rows how many were asked for
   * @return by row: the outputs by name
   * @throws InvalidAnswer it has other rows or outputs than were asked for
   */
  public List<Map<String, Object>> read(ColumnBatch batch, int rows) throws InvalidAnswer {
    if (batch.getNumRows() != rows || batch.getColumnsCount() != fields.size()) {
      throw new InvalidAnswer(
          rows + " rows of " + fields.size() + " outputs were asked for, and " + batch.getNumRows() + " of "
              + batch.getColumnsCount() + " came");
    }
    List<Map<String, Object>> read = new ArrayList<>(rows);
    for (int row = 0; row < rows; row++) {
      read.add(new HashMap<>(2 * fields.size()));
    }
    for (Column column : batch.getColumnsList()) {
      Field field = fields.get(column.getName());
      if (field == null || read.size() > 0 && read.get(0).containsKey(column.getName())) {
        throw new InvalidAnswer("the output " + column.getName() + " was not asked for, or came twice");
      }
      read(column, field.getType(), read);
    }
    return read;
  }

  private static void read(Column column, Type type, List<Map<String, Object>> rows) throws InvalidAnswer {
    Leaf leaf = leaf(type, 1);
    Column.ValuesCase promised = leaf == null ? Column.ValuesCase.NESTED : leaf.kind;
    if (column.getValuesCase() != promised) {
      throw new InvalidAnswer(
          "the output " + column.getName() + " came as " + column.getValuesCase() + ", and " + promised + " was promised");
    }
    List<?> values = values(column);
    if (values.size() != rows.size()) {
      throw new InvalidAnswer(
          rows.size() + " values of " + column.getName() + " were asked for, and " + values.size() + " came");
    }
    for (int row = 0; row < rows.size(); row++) {
      Object value = isNull(column, row) ? null : values.get(row);
      rows.get(row).put(column.getName(), value instanceof Value ? nested((Value) value, type) : single(column, value));
    }
  }

  private static boolean isNull(Column column, int row) throws InvalidAnswer {
    if (column.getValidity().isEmpty()) {
      return false;
    }
    if (row / 8 >= column.getValidity().size()) {
      throw new InvalidAnswer("what " + column.getName() + " tells of its nulls is too short");
    }
    return (column.getValidity().byteAt(row / 8) >> row % 8 & 1) == 0;
  }

  private static List<?> values(Column column) throws InvalidAnswer {
    switch (column.getValuesCase()) {
      case BOOLS:
        return column.getBools().getValuesList();
      case INT32S:
        return column.getInt32S().getValuesList();
      case INT64S:
        return column.getInt64S().getValuesList();
      case FLOATS:
        return column.getFloats().getValuesList();
      case DOUBLES:
        return column.getDoubles().getValuesList();
      case STRINGS:
        return column.getStrings().getValuesList();
      case BINARIES:
        return column.getBinaries().getValuesList();
      case TIMESTAMPS:
        return column.getTimestamps().getValuesList();
      case NESTED:
        return column.getNested().getValuesList();
      default:
        throw new InvalidAnswer("the output " + column.getName() + " came without values");
    }
  }

  private static Object single(Column column, Object value) {
    if (value == null) {
      return null;
    }
    switch (column.getValuesCase()) {
      case TIMESTAMPS:
        return Instants.local((Long) value);
      case BINARIES:
        return ((com.google.protobuf.ByteString) value).toByteArray();
      default:
        return value;
    }
  }

  private static Object nested(Value value, Type type) throws InvalidAnswer {
    switch (value.getKindCase()) {
      case NULL_VALUE:
        return null;
      case BOOL_VALUE:
        return value.getBoolValue();
      case INT64_VALUE:
        return whole(value.getInt64Value(), type);
      case DOUBLE_VALUE:
        return isSingle(type) ? (Object) (float) value.getDoubleValue() : (Object) value.getDoubleValue();
      case STRING_VALUE:
        return value.getStringValue();
      case BYTES_VALUE:
        return value.getBytesValue().toByteArray();
      case TIMESTAMP_VALUE:
        return Instants.local(value.getTimestampValue());
      case LIST_VALUE:
        List<Object> list = new ArrayList<>(value.getListValue().getValuesCount());
        for (Value one : value.getListValue().getValuesList()) {
          list.add(nested(one, type.hasList() ? type.getList().getItems() : type));
        }
        return list;
      case RECORD_VALUE:
        Map<String, Object> record = new HashMap<>();
        for (Map.Entry<String, Value> one : value.getRecordValue().getFieldsMap().entrySet()) {
          record.put(one.getKey(), nested(one.getValue(), within(type, one.getKey())));
        }
        return record;
      default:
        throw new InvalidAnswer("a value came of a kind that this client is too old for");
    }
  }

  private static Type within(Type type, String name) {
    if (type.hasMap()) {
      return type.getMap().getValues();
    }
    return type.getRecord().getFieldsList().stream()
        .filter(field -> field.getName().equals(name))
        .map(Field::getType)
        .findFirst()
        .orElse(Type.getDefaultInstance());
  }

  /** Within a value all whole numbers travel alike; their class is that of the type. */
  private static Object whole(long value, Type type) throws InvalidAnswer {
    Leaf leaf = leaf(type, Integer.MAX_VALUE);
    if (leaf == null || leaf.kind != Column.ValuesCase.INT32S) {
      return value;
    }
    if (value != (int) value) {
      throw new InvalidAnswer("a whole number came that is outside the range of " + leaf.name);
    }
    return (int) value;
  }

  private static boolean isSingle(Type type) {
    Leaf leaf = leaf(type, Integer.MAX_VALUE);
    return leaf != null && leaf.kind == Column.ValuesCase.FLOATS;
  }

  /** Gives the leaf of single values, or of the elements of a tensor of so many dimensions at most; else null. */
  private static Leaf leaf(Type type, int dimensions) {
    if (type.hasScalar()) {
      return Leaf.of(type.getScalar());
    }
    boolean tensor = type.hasTensor() && type.getTensor().getShapeCount() <= dimensions;
    return tensor ? Leaf.ofDtype(type.getTensor().getDtype()) : null;
  }
}
