package io.prinz.enricher.values;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.MessageLite;
import io.prinz.enricher.v1.Column;
import io.prinz.enricher.v1.ColumnBatch;
import io.prinz.enricher.v1.Field;
import io.prinz.enricher.v1.Int64Values;
import io.prinz.enricher.v1.ListType;
import io.prinz.enricher.v1.ListValue;
import io.prinz.enricher.v1.NestedValues;
import io.prinz.enricher.v1.ScalarType;
import io.prinz.enricher.v1.Signature;
import io.prinz.enricher.v1.Type;
import io.prinz.enricher.v1.Value;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** The pinned wire form of each type, which the service's own tests hold as well. */
class GoldenVectorsTest {
  private static final Path FILE = Path.of("../../tests/golden/vectors.json");

  /** One vector, named. */
  static final class Vector {
    final JsonObject json;

    Vector(JsonObject json) {
      this.json = json;
    }

    @Override
    public String toString() {
      return json.get("name").getAsString();
    }

    Signature signature() throws IOException {
      return Signature.parseFrom(hex("signature"));
    }

    byte[] hex(String name) {
      return bytes(json.get(name).getAsString());
    }
  }

  static List<Vector> vectors(boolean accepted) throws IOException {
    List<Vector> found = new ArrayList<>();
    for (JsonElement one : JsonParser.parseString(Files.readString(FILE)).getAsJsonArray()) {
      if (one.getAsJsonObject().get("accepted").getAsBoolean() == accepted) {
        found.add(new Vector(one.getAsJsonObject()));
      }
    }
    return found;
  }

  static Stream<Vector> accepted() throws IOException {
    return vectors(true).stream();
  }

  static Stream<Vector> refused() throws IOException {
    return vectors(false).stream();
  }

  /** The file is the one that the service's tests read. */
  @Test
  void thereAreVectorsOfBothSorts() throws IOException {
    assertTrue(vectors(true).size() > 25, "accepted");
    assertTrue(vectors(false).size() > 15, "refused");
  }

  /** Java's values are written as the service writes what it decoded, byte for byte. */
  @ParameterizedTest
  @MethodSource("accepted")
  void rowsAreWrittenAsPinned(Vector vector) throws Exception {
    Inputs inputs = new Inputs(vector.signature());
    List<Row> rows = new ArrayList<>();
    for (Object value : sent(vector)) {
      rows.add(inputs.admit(row(value)));
    }
    ColumnBatch written = inputs.encode(rows.get(0).shape(), rows);
    assertEquals(vector.json.get("encoded_again").getAsString(), hex(deterministic(written)));
  }

  /** What comes back is read as the values that the file tells, in the classes of their types. */
  @ParameterizedTest
  @MethodSource("accepted")
  void pinnedBytesAreReadAsPinned(Vector vector) throws Exception {
    Signature inputs = vector.signature();
    Signature back = Signature.newBuilder().addAllOutputs(inputs.getInputsList()).build();
    JsonArray rows = vector.json.getAsJsonArray("rows");
    ColumnBatch batch = ColumnBatch.parseFrom(vector.hex("encoded_again"));
    List<Map<String, Object>> read = new Outputs(back, List.of()).read(batch, rows.size());
    for (int row = 0; row < rows.size(); row++) {
      assertEquals(told(pinned(rows.get(row))), told(read.get(row).get("x")), "row " + row);
    }
  }

  /** What the service refuses is refused before it is sent, with the same words at the same place. */
  @ParameterizedTest
  @MethodSource("refused")
  void rowsAreRefusedAsPinned(Vector vector) throws Exception {
    Inputs inputs = new Inputs(vector.signature());
    Map<String, String> wanted = new TreeMap<>();
    List<Object> rows = sent(vector);
    for (JsonElement one : vector.json.getAsJsonArray("violations")) {
      String field = one.getAsJsonObject().get("field").getAsString();
      String description = one.getAsJsonObject().get("description").getAsString();
      for (int row = 0; row < rows.size(); row++) {
        if (field.equals("columns[\"x\"]")) {
          wanted.put(field + "[" + row + "]", description);
        }
      }
      if (!field.equals("columns[\"x\"]")) {
        wanted.put(field, description);
      }
    }
    Map<String, String> found = new TreeMap<>();
    for (int row = 0; row < rows.size(); row++) {
      try {
        inputs.admit(row(rows.get(row)));
      } catch (InvalidRow refused) {
        for (Violation one : refused.violations()) {
          assertTrue(one.field().startsWith("x"), one.field());
          found.put("columns[\"x\"][" + row + "]" + one.field().substring(1), one.description());
        }
      }
    }
    assertEquals(wanted, found);
  }

  /** An answer of another number of rows is no answer. */
  @Test
  void anAnswerOfOtherRowsIsRefused() throws Exception {
    Vector vector = vectors(true).get(0);
    Signature back = Signature.newBuilder().addAllOutputs(vector.signature().getInputsList()).build();
    ColumnBatch batch = ColumnBatch.parseFrom(vector.hex("encoded_again"));
    Outputs outputs = new Outputs(back, List.of());
    assertThrows(InvalidAnswer.class, () -> outputs.read(batch, (int) batch.getNumRows() + 1));
    assertThrows(InvalidAnswer.class, () -> outputs.read(batch.toBuilder().clearColumns().build(), 2));
  }

  /** Values of another class than the signature promised, or beyond it, are no answer either, and are not cut off. */
  @Test
  void anAnswerOfOtherTypesIsRefused() throws Exception {
    Type integer = Type.newBuilder().setScalar(ScalarType.SCALAR_TYPE_INTEGER).build();
    Type integers = Type.newBuilder().setList(ListType.newBuilder().setItems(integer)).build();
    Column.Builder longs = Column.newBuilder().setName("x").setInt64S(Int64Values.newBuilder().addValues(1L << 40));
    assertThrows(InvalidAnswer.class, () -> read(integer, longs));
    Value large = Value.newBuilder().setInt64Value(1L << 40).build();
    Value list = Value.newBuilder().setListValue(ListValue.newBuilder().addValues(large)).build();
    Column.Builder nested = Column.newBuilder().setName("x").setNested(NestedValues.newBuilder().addValues(list));
    assertThrows(InvalidAnswer.class, () -> read(integers, nested));
  }

  private static Object read(Type type, Column.Builder column) throws InvalidAnswer {
    Field output = Field.newBuilder().setName("x").setType(type).build();
    ColumnBatch batch = ColumnBatch.newBuilder().setNumRows(1).addColumns(column).build();
    return new Outputs(Signature.newBuilder().addOutputs(output).build(), List.of()).read(batch, 1).get(0).get("x");
  }

  private static Map<String, Object> row(Object value) {
    Map<String, Object> row = new HashMap<>();
    row.put("x", value);
    return row;
  }

  private static List<Object> sent(Vector vector) {
    JsonObject sent = vector.json.getAsJsonObject("sent");
    String kind = sent.get("kind").getAsString();
    List<Object> rows = new ArrayList<>();
    for (JsonElement one : sent.getAsJsonArray("rows")) {
      rows.add(ofKind(pinned(one), kind));
    }
    return rows;
  }

  /** Gives a value in the class that a scenario has for this kind of column. */
  private static Object ofKind(Object value, String kind) {
    if (value == null) {
      return null;
    }
    switch (kind) {
      case "int32s":
        return ((Number) value).intValue();
      case "floats":
        return ((Number) value).floatValue();
      case "doubles":
        return ((Number) value).doubleValue();
      case "timestamps":
        return value instanceof Number ? Instants.local(((Number) value).longValue()) : value;
      default:
        return value;
    }
  }

  /** Reads a value as the file writes it: whole numbers have no point, the rest is in one-key objects. */
  private static Object pinned(JsonElement json) {
    if (json.isJsonNull()) {
      return null;
    }
    if (json.isJsonArray()) {
      List<Object> list = new ArrayList<>();
      json.getAsJsonArray().forEach(one -> list.add(pinned(one)));
      return list;
    }
    if (json.isJsonObject()) {
      Map.Entry<String, JsonElement> only = json.getAsJsonObject().entrySet().iterator().next();
      switch (only.getKey()) {
        case "double":
          return Double.valueOf(only.getValue().getAsString());
        case "binary":
          return bytes(only.getValue().getAsString());
        case "micros":
          return Instants.local(only.getValue().getAsLong());
        default:
          Map<String, Object> record = new LinkedHashMap<>();
          only.getValue().getAsJsonObject().entrySet().forEach(e -> record.put(e.getKey(), pinned(e.getValue())));
          return record;
      }
    }
    if (json.getAsJsonPrimitive().isBoolean()) {
      return json.getAsBoolean();
    }
    if (json.getAsJsonPrimitive().isString()) {
      return json.getAsString();
    }
    String text = json.getAsString();
    return text.matches("-?[0-9]+") ? (Object) new BigInteger(text).longValueExact() : (Object) Double.valueOf(text);
  }

  /** Gives values a form that equals knows, with the sort of each number told. */
  private static Object told(Object value) {
    if (value instanceof byte[]) {
      return "bytes " + hex((byte[]) value);
    }
    if (value instanceof Integer || value instanceof Long) {
      return "whole " + value;
    }
    if (value instanceof Float || value instanceof Double) {
      double real = ((Number) value).doubleValue();
      return "real " + (Double.isNaN(real) || Double.isInfinite(real) ? "" + real : new BigDecimal(real) + " " + 1 / real);
    }
    if (value instanceof LocalDateTime) {
      return "instant " + value;
    }
    if (value instanceof List) {
      List<Object> list = new ArrayList<>();
      ((List<?>) value).forEach(one -> list.add(told(one)));
      return list;
    }
    if (value instanceof Map) {
      Map<Object, Object> record = new HashMap<>();
      ((Map<?, ?>) value).forEach((key, one) -> record.put(key, told(one)));
      return record;
    }
    return value;
  }

  private static byte[] deterministic(MessageLite message) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    CodedOutputStream stream = CodedOutputStream.newInstance(bytes);
    stream.useDeterministicSerialization();
    message.writeTo(stream);
    stream.flush();
    return bytes.toByteArray();
  }

  private static String hex(byte[] bytes) {
    StringBuilder text = new StringBuilder();
    for (byte one : bytes) {
      text.append(String.format("%02x", one));
    }
    return text.toString();
  }

  private static byte[] bytes(String hex) {
    byte[] bytes = new byte[hex.length() / 2];
    for (int at = 0; at < bytes.length; at++) {
      bytes[at] = (byte) Integer.parseInt(hex.substring(2 * at, 2 * at + 2), 16);
    }
    return ByteString.copyFrom(bytes).toByteArray();
  }
}
