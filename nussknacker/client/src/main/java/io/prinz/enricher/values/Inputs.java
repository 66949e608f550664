package io.prinz.enricher.values;

import com.google.protobuf.ByteString;
import io.prinz.enricher.v1.AnyType;
import io.prinz.enricher.v1.BoolValues;
import io.prinz.enricher.v1.BytesValues;
import io.prinz.enricher.v1.Column;
import io.prinz.enricher.v1.ColumnBatch;
import io.prinz.enricher.v1.DoubleValues;
import io.prinz.enricher.v1.Field;
import io.prinz.enricher.v1.FloatValues;
import io.prinz.enricher.v1.Int32Values;
import io.prinz.enricher.v1.Int64Values;
import io.prinz.enricher.v1.NestedValues;
import io.prinz.enricher.v1.Signature;
import io.prinz.enricher.v1.StringValues;
import io.prinz.enricher.v1.TimestampValues;
import io.prinz.enricher.v1.Type;
import io.prinz.enricher.v1.Value;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Checks rows against the inputs of a signature, and writes those of one shape as columns. Safe for threads. */
public final class Inputs {
  private static final Field OF_ANY_TYPE =
      Field.newBuilder().setType(Type.newBuilder().setAny(AnyType.getDefaultInstance())).build();

  private final List<String> names = new ArrayList<>();
  private final Map<String, Input> inputs = new LinkedHashMap<>();
  private final boolean anyNames;
  private final Shape full;

  /**
   * Reads a signature. One without inputs whose model was logged without a signature takes columns of any name.
   *
   * @param signature of a model
   */
  public Inputs(Signature signature) {
    for (Field field : signature.getInputsList()) {
      names.add(field.getName());
      inputs.put(field.getName(), new Input(field));
    }
    anyNames = names.isEmpty() && signature.getOrigin() == Signature.Origin.ORIGIN_MISSING;
    full = new Shape(names, new BitSet());
  }

  /**
   * Checks a row.
   *
   * @param row by the names of the inputs; an optional one may be missing
   * @return the row as it travels
   * @throws InvalidRow with each of its faults
   */
  public Row admit(Map<String, ?> row) throws InvalidRow {
    Faults faults = new Faults();
    List<String> present = names;
    if (anyNames) {
      present = List.copyOf(row.keySet());
    } else if (row.size() != names.size() || !row.keySet().containsAll(names)) {
      present = present(row, faults);
    }
    Object[] values = new Object[present.size()];
    BitSet nulls = null;
    for (int place = 0; place < values.length; place++) {
      String name = present.get(place);
      Input input = anyNames ? new Input(OF_ANY_TYPE.toBuilder().setName(name).build()) : inputs.get(name);
      Object value = input.admit(row.get(name), faults);
      values[place] = value;
      if (value == null || value == Nested.NULL) {
        nulls = nulls == null ? new BitSet() : nulls;
        nulls.set(place);
      }
    }
    faults.throwAny();
    Shape shape = present == names && nulls == null ? full : new Shape(present, nulls == null ? new BitSet() : nulls);
    return new Row(shape, values);
  }

  private List<String> present(Map<String, ?> row, Faults faults) {
    List<String> present = new ArrayList<>();
    for (Map.Entry<String, Input> one : inputs.entrySet()) {
      if (row.containsKey(one.getKey())) {
        present.add(one.getKey());
      } else if (one.getValue().field.getRequired()) {
        faults.add(Path.field(one.getKey()), Refused.MISSING_COLUMN);
      }
    }
    for (String name : row.keySet()) {
      if (!inputs.containsKey(name)) {
        faults.add(Path.field(name), Refused.UNKNOWN_COLUMN);
      }
    }
    return present;
  }

  /**
   * Writes rows as columns.
   *
   * @param shape of all of them
   * @param rows as {@link #admit} gave them, at least one
   */
  public ColumnBatch encode(Shape shape, List<Row> rows) {
    ColumnBatch.Builder batch = ColumnBatch.newBuilder().setNumRows(rows.size());
    for (int place = 0; place < shape.names().size(); place++) {
      String name = shape.names().get(place);
      Leaf leaf = anyNames ? null : inputs.get(name).leaf;
      batch.addColumns(column(name, leaf, rows, place));
    }
    return batch.build();
  }

  private static Column column(String name, Leaf leaf, List<Row> rows, int place) {
    Column.Builder column = Column.newBuilder().setName(name);
    if (leaf == null) {
      NestedValues.Builder values = NestedValues.newBuilder();
      rows.forEach(row -> values.addValues((Value) row.values[place]));
      return column.setNested(values).build();
    }
    ByteString validity = validity(rows, place);
    if (validity != null) {
      column.setValidity(validity);
    }
    switch (leaf.kind) {
      case BOOLS:
        BoolValues.Builder bools = BoolValues.newBuilder();
        rows.forEach(row -> bools.addValues(row.values[place] != null && (Boolean) row.values[place]));
        return column.setBools(bools).build();
      case INT32S:
        Int32Values.Builder int32s = Int32Values.newBuilder();
        rows.forEach(row -> int32s.addValues(row.values[place] == null ? 0 : (Integer) row.values[place]));
        return column.setInt32S(int32s).build();
      case INT64S:
        Int64Values.Builder int64s = Int64Values.newBuilder();
        rows.forEach(row -> int64s.addValues(row.values[place] == null ? 0 : (Long) row.values[place]));
        return column.setInt64S(int64s).build();
      case TIMESTAMPS:
        TimestampValues.Builder instants = TimestampValues.newBuilder();
        rows.forEach(row -> instants.addValues(row.values[place] == null ? 0 : (Long) row.values[place]));
        return column.setTimestamps(instants).build();
      case FLOATS:
        FloatValues.Builder floats = FloatValues.newBuilder();
        rows.forEach(row -> floats.addValues((Float) row.values[place]));
        return column.setFloats(floats).build();
      case DOUBLES:
        DoubleValues.Builder doubles = DoubleValues.newBuilder();
        rows.forEach(row -> doubles.addValues((Double) row.values[place]));
        return column.setDoubles(doubles).build();
      case STRINGS:
        StringValues.Builder strings = StringValues.newBuilder();
        rows.forEach(row -> strings.addValues(row.values[place] == null ? "" : (String) row.values[place]));
        return column.setStrings(strings).build();
      case BINARIES:
        BytesValues.Builder binaries = BytesValues.newBuilder();
        rows.forEach(
            row -> binaries.addValues(row.values[place] == null ? ByteString.EMPTY : (ByteString) row.values[place]));
        return column.setBinaries(binaries).build();
      default:
        throw new IllegalStateException("no column of the wire is of the kind " + leaf.kind);
    }
  }

  /** Arrow's bitmap of what is not null; null where nothing is. */
  private static ByteString validity(List<Row> rows, int place) {
    byte[] bits = new byte[(rows.size() + 7) / 8];
    boolean whole = true;
    for (int row = 0; row < rows.size(); row++) {
      if (rows.get(row).values[place] == null) {
        whole = false;
      } else {
        bits[row / 8] |= (byte) (1 << row % 8);
      }
    }
    return whole ? null : ByteString.copyFrom(bits);
  }

  /** One input of a model. */
  private static final class Input {
    final Field field;
    final Leaf leaf;
    private final Path path;

    Input(Field field) {
      this.field = field;
      this.leaf = leafOf(field.getType());
      this.path = Path.field(field.getName());
    }

    Object admit(Object raw, Faults faults) {
      if (leaf == null) {
        return new Nested(faults, true).admit(raw, field.getType(), field.getRequired(), path);
      }
      try {
        return leaf.admit(JavaValues.plain(raw), field.getRequired(), false);
      } catch (Refused refused) {
        faults.add(path, refused.getMessage());
        return null;
      }
    }

    /** The leaf of a column of single values; null where they are nested. */
    private static Leaf leafOf(Type type) {
      if (type.hasScalar()) {
        return Leaf.of(type.getScalar());
      }
      return type.hasTensor() && type.getTensor().getShapeCount() <= 1 ? Leaf.ofDtype(type.getTensor().getDtype()) : null;
    }
  }
}
