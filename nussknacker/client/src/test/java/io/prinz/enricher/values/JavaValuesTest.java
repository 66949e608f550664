package io.prinz.enricher.values;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import com.google.protobuf.NullValue;
import io.prinz.enricher.v1.AnyType;
import io.prinz.enricher.v1.Column;
import io.prinz.enricher.v1.Field;
import io.prinz.enricher.v1.ListType;
import io.prinz.enricher.v1.MapType;
import io.prinz.enricher.v1.Param;
import io.prinz.enricher.v1.RecordType;
import io.prinz.enricher.v1.ScalarType;
import io.prinz.enricher.v1.Signature;
import io.prinz.enricher.v1.TensorType;
import io.prinz.enricher.v1.Type;
import io.prinz.enricher.v1.Value;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.OffsetDateTime;
import java.time.ZoneId;
import java.time.ZonedDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Date;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.util.Utf8;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** What a scenario's values become on the wire, whatever class of Java's they are of, and what is refused. */
class JavaValuesTest {
  private static final long NOON = 1_795_435_200_123_456L;
  private static final LocalDateTime LOCAL = Instants.local(NOON);

  private static Type scalar(ScalarType type) {
    return Type.newBuilder().setScalar(type).build();
  }

  private static Type listOf(Type items) {
    return Type.newBuilder().setList(ListType.newBuilder().setItems(items)).build();
  }

  private static Field field(String name, Type type, boolean required) {
    return Field.newBuilder().setName(name).setType(type).setRequired(required).build();
  }

  private static Inputs inputs(Field... fields) {
    return new Inputs(Signature.newBuilder().addAllInputs(Arrays.asList(fields)).build());
  }

  private static Column column(Type type, Object value) throws InvalidRow {
    Inputs inputs = inputs(field("x", type, true));
    Row row = inputs.admit(Collections.singletonMap("x", value));
    return inputs.encode(row.shape(), List.of(row)).getColumns(0);
  }

  private static String refusal(Type type, Object value) {
    InvalidRow refused = assertThrows(InvalidRow.class, () -> column(type, value));
    assertEquals(1, refused.violations().size(), refused.getMessage());
    return refused.violations().get(0).toString();
  }

  /** Every class of numbers goes where its value survives. */
  @Test
  void numbersOfEveryClass() throws InvalidRow {
    List<Object> sevens =
        List.of((byte) 7, (short) 7, 7, 7L, 7f, 7d, BigInteger.valueOf(7), new BigDecimal("7.00"), new BigDecimal("0.7E1"));
    for (Object seven : sevens) {
      assertEquals(7.0, column(scalar(ScalarType.SCALAR_TYPE_DOUBLE), seven).getDoubles().getValues(0));
      assertEquals(7f, column(scalar(ScalarType.SCALAR_TYPE_FLOAT), seven).getFloats().getValues(0));
      assertEquals(7, column(scalar(ScalarType.SCALAR_TYPE_INTEGER), seven).getInt32S().getValues(0));
      assertEquals(7L, column(scalar(ScalarType.SCALAR_TYPE_LONG), seven).getInt64S().getValues(0));
    }
    Type longs = scalar(ScalarType.SCALAR_TYPE_LONG);
    assertEquals(Long.MAX_VALUE, column(longs, new BigDecimal(Long.MAX_VALUE)).getInt64S().getValues(0));
    assertEquals(Long.MIN_VALUE, column(longs, BigInteger.valueOf(Long.MIN_VALUE)).getInt64S().getValues(0));
    assertEquals(0.1, column(scalar(ScalarType.SCALAR_TYPE_DOUBLE), new BigDecimal("0.1")).getDoubles().getValues(0));
  }

  /** What would change on its way is refused by the name of its field. */
  @Test
  void whatWouldChangeIsRefused() {
    Type longs = scalar(ScalarType.SCALAR_TYPE_LONG);
    Type doubles = scalar(ScalarType.SCALAR_TYPE_DOUBLE);
    assertEquals("x is outside the range of long", refusal(longs, BigInteger.ONE.shiftLeft(63)));
    assertEquals("x is outside the range of long", refusal(longs, new BigDecimal("1E+2000000000")));
    assertEquals("x is not a whole number", refusal(longs, new BigDecimal("1E-2000000000")));
    assertEquals("x is not a whole number", refusal(longs, new BigDecimal("7.5")));
    assertEquals("x is a whole number beyond 2^53, inexact as double", refusal(doubles, (1L << 53) + 1));
    assertEquals("x is a whole number beyond 2^53, inexact as double", refusal(doubles, BigInteger.ONE.shiftLeft(64)));
    String decimal = "x is a decimal that a floating point number can't tell";
    assertEquals(decimal, refusal(doubles, new BigDecimal("0.10000000000000000001")));
    assertEquals(decimal, refusal(doubles, new BigDecimal("1E+400")));
    assertEquals(decimal, refusal(doubles, new BigDecimal("1E-400")));
    assertEquals("x is text; wanted double", refusal(doubles, "7"));
    assertEquals("x is a boolean; wanted double", refusal(doubles, true));
    assertEquals("x is a java.util.UUID; wanted string", refusal(scalar(ScalarType.SCALAR_TYPE_STRING), new UUID(1, 2)));
    assertEquals("x is not Unicode text", refusal(scalar(ScalarType.SCALAR_TYPE_STRING), "a\ud834"));
    assertEquals("x is a timestamp; wanted long", refusal(longs, LOCAL));
  }

  /** A decimal is taken where the double's shortest decimal form is that decimal: as the service decides, one by one. */
  @Test
  @EnabledIfEnvironmentVariable(named = "PRINZ_TEST_DECIMALS", matches = ".+", disabledReason = "needs make test-nussknacker")
  void decimalsThatDoublesTell() throws IOException {
    Type doubles = scalar(ScalarType.SCALAR_TYPE_DOUBLE);
    List<String> lines = Files.readAllLines(Path.of(System.getenv("PRINZ_TEST_DECIMALS")));
    assertTrue(lines.size() > 10_000, "decimals");
    for (String line : lines) {
      String[] parts = line.split(" ");
      String taken;
      try {
        taken = String.format("%016x", Double.doubleToRawLongBits(column(doubles, new BigDecimal(parts[0])).getDoubles().getValues(0)));
      } catch (InvalidRow refused) {
        taken = "refused";
      }
      assertEquals(parts[1], taken, parts[0]);
    }
  }

  /** All of java.time's instants are one; without a zone they are in UTC. */
  @Test
  void instantsOfEveryClass() throws InvalidRow {
    Type datetime = scalar(ScalarType.SCALAR_TYPE_DATETIME);
    Instant instant = LOCAL.toInstant(java.time.ZoneOffset.UTC);
    ZonedDateTime warsaw = instant.atZone(ZoneId.of("Europe/Warsaw"));
    OffsetDateTime offset = warsaw.toOffsetDateTime();
    for (Object same : List.of(LOCAL, instant, warsaw, offset, offset.toString(), instant.toString(), LOCAL.toString())) {
      assertEquals(NOON, column(datetime, same).getTimestamps().getValues(0), same.toString());
    }
    assertEquals(86_400_000_000L, column(datetime, LocalDate.of(1970, 1, 2)).getTimestamps().getValues(0));
    assertEquals(5_000L, column(datetime, new Date(5)).getTimestamps().getValues(0));
    assertEquals("x has digits finer than microseconds", refusal(datetime, LOCAL.plusNanos(1)));
    assertEquals("x is a date and time outside the range of 64 bits", refusal(datetime, LocalDateTime.MAX.withNano(0)));
    assertEquals("x is a java.time.LocalTime; wanted datetime", refusal(datetime, LocalTime.NOON));
    assertEquals("x is a java.sql.Date; wanted datetime", refusal(datetime, new java.sql.Date(0)));
    for (String wrong : List.of("2026-02-30", "2026-01-01T24:00:00", "2026-01-01T00:00:60", "0000-01-01", "2026-01-01T00:00+24:00")) {
      assertEquals("x is not an ISO-8601 date and time", refusal(datetime, wrong));
    }
  }

  /** Bytes come as arrays and buffers, which are not used up. */
  @Test
  void bytesOfEveryClass() throws InvalidRow {
    Type binary = scalar(ScalarType.SCALAR_TYPE_BINARY);
    ByteBuffer buffer = ByteBuffer.wrap(new byte[] {1, 2, 3});
    for (int time = 0; time < 2; time++) {
      assertEquals(ByteString.copyFrom(new byte[] {1, 2, 3}), column(binary, buffer).getBinaries().getValues(0));
    }
    assertEquals(ByteString.copyFrom(new byte[] {4}), column(binary, new byte[] {4}).getBinaries().getValues(0));
  }

  /** What is within lists and maps, which the engine converts nothing of, is brought to its type too. */
  @Test
  void valuesWithinLists() throws InvalidRow {
    Type series = listOf(scalar(ScalarType.SCALAR_TYPE_DOUBLE));
    List<Object> mixed = Arrays.asList(1, 2L, new BigDecimal("0.5"), 1f, null);
    List<Double> doubles = new ArrayList<>();
    for (Value one : column(series, mixed).getNested().getValues(0).getListValue().getValuesList()) {
      doubles.add(one.getDoubleValue());
    }
    assertEquals(List.of(1.0, 2.0, 0.5, 1.0, Double.NaN), doubles);
    assertEquals(2, column(series, new double[] {1, 2}).getNested().getValues(0).getListValue().getValuesCount());
    assertEquals(1, column(series, new LinkedHashSet<>(List.of(1))).getNested().getValues(0).getListValue().getValuesCount());
    assertEquals("x[1] is text; wanted double", refusal(series, List.of(1.0, "2")));
    assertEquals("x[0][1] is a number; wanted string", refusal(listOf(listOf(scalar(ScalarType.SCALAR_TYPE_STRING))), List.of(Arrays.asList("a", 1))));
    Type map = Type.newBuilder().setMap(MapType.newBuilder().setValues(scalar(ScalarType.SCALAR_TYPE_LONG))).build();
    assertEquals(3L, column(map, Map.of(new Utf8("k"), 3)).getNested().getValues(0).getRecordValue().getFieldsOrThrow("k").getInt64Value());
    assertEquals("x[\"a b\"] is not a whole number", refusal(map, Map.of("a b", 1.5)));
    assertEquals("x has a key that is not Unicode text", refusal(map, Map.of(1, 1)));
    Map<Object, Object> twice = new HashMap<>();
    twice.put("k", 1);
    twice.put(new Utf8("k"), 2);
    assertEquals("x has a key that another entry has too", refusal(map, twice));
  }

  /** Avro's records, text, symbols and fixed bytes are what they stand for. */
  @Test
  void avroValues() throws InvalidRow {
    Schema schema =
        new Schema.Parser()
            .parse(
                "{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"id\",\"type\":\"int\"},"
                    + "{\"name\":\"note\",\"type\":\"string\"},{\"name\":\"sort\",\"type\":{\"type\":\"enum\","
                    + "\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}},{\"name\":\"mark\",\"type\":{\"type\":\"fixed\","
                    + "\"name\":\"F\",\"size\":2}}]}");
    GenericRecord record = new GenericData.Record(schema);
    record.put("id", 5);
    record.put("note", new Utf8("hi"));
    record.put("sort", new GenericData.EnumSymbol(schema.getField("sort").schema(), "B"));
    record.put("mark", new GenericData.Fixed(schema.getField("mark").schema(), new byte[] {1, 2}));
    Type text = scalar(ScalarType.SCALAR_TYPE_STRING);
    Type type =
        Type.newBuilder()
            .setRecord(
                RecordType.newBuilder()
                    .addFields(field("id", scalar(ScalarType.SCALAR_TYPE_LONG), true))
                    .addFields(field("note", text, true))
                    .addFields(field("sort", text, true))
                    .addFields(field("mark", scalar(ScalarType.SCALAR_TYPE_BINARY), true)))
            .build();
    Map<String, Value> read = column(type, record).getNested().getValues(0).getRecordValue().getFieldsMap();
    assertEquals(5L, read.get("id").getInt64Value());
    assertEquals("hi", read.get("note").getStringValue());
    assertEquals("B", read.get("sort").getStringValue());
    assertEquals(ByteString.copyFrom(new byte[] {1, 2}), read.get("mark").getBytesValue());
    assertEquals("hi", column(text, new Utf8("hi")).getStrings().getValues(0));
  }

  /** Every fault of a row is told, not only the first. */
  @Test
  void everyFaultIsTold() {
    Inputs inputs =
        inputs(
            field("fixed acidity", scalar(ScalarType.SCALAR_TYPE_DOUBLE), true),
            field("n", scalar(ScalarType.SCALAR_TYPE_INTEGER), true),
            field("flag", scalar(ScalarType.SCALAR_TYPE_BOOLEAN), false));
    Map<String, Object> row = new HashMap<>();
    row.put("fixed acidity", "high");
    row.put("flag", 1);
    row.put("more", 1);
    InvalidRow refused = assertThrows(InvalidRow.class, () -> inputs.admit(row));
    List<String> told = new ArrayList<>();
    refused.violations().forEach(one -> told.add(one.toString()));
    Collections.sort(told);
    assertEquals(
        List.of(
            "\"fixed acidity\" is text; wanted double",
            "flag is a whole number; wanted boolean",
            "more is no input of this model",
            "n is missing, but is required"),
        told);
  }

  /** Rows of which a column is missing or null do not travel with those that have it. */
  @Test
  void shapesKeepApart() throws InvalidRow {
    Inputs inputs =
        inputs(
            field("n", scalar(ScalarType.SCALAR_TYPE_INTEGER), false),
            field("x", scalar(ScalarType.SCALAR_TYPE_DOUBLE), true));
    Map<String, Object> missing = new HashMap<>();
    missing.put("n", null);
    missing.put("x", null);
    Shape full = inputs.admit(Map.of("n", 1, "x", 2)).shape();
    assertEquals(full, inputs.admit(Map.of("x", 7.5, "n", 3L)).shape());
    assertNotEquals(full, inputs.admit(missing).shape());
    assertNotEquals(full, inputs.admit(Map.of("x", 1.0)).shape());
    assertEquals(inputs.admit(Map.of("x", 2.0)).shape(), inputs.admit(Map.of("x", 1.0)).shape());
  }

  /** A model without a signature takes columns of any name, with values of any type. */
  @Test
  void aModelWithoutASignature() throws InvalidRow {
    Inputs inputs = new Inputs(Signature.newBuilder().setOrigin(Signature.Origin.ORIGIN_MISSING).build());
    Row row = inputs.admit(Map.of("anything", List.of(1, Map.of("k", new BigDecimal("1.50")))));
    Value list = inputs.encode(row.shape(), List.of(row)).getColumns(0).getNested().getValues(0);
    assertEquals(1L, list.getListValue().getValues(0).getInt64Value());
    assertEquals(1.5, list.getListValue().getValues(1).getRecordValue().getFieldsOrThrow("k").getDoubleValue());
    assertThrows(InvalidRow.class, () -> inputs.admit(Map.of("anything", LOCAL)));
  }

  /** Values nested without end are refused, and not followed to the end of the stack. */
  @Test
  void nestingHasAnEnd() {
    List<Object> endless = new ArrayList<>();
    endless.add(endless);
    Type any = Type.newBuilder().setAny(AnyType.getDefaultInstance()).build();
    InvalidRow refused = assertThrows(InvalidRow.class, () -> column(any, endless));
    assertTrue(refused.getMessage().endsWith("is nested deeper than 32 levels"), refused.getMessage());
  }

  /** Parameters are checked like inputs. */
  @Test
  void parameters() throws InvalidRow {
    Signature signature =
        Signature.newBuilder()
            .addParams(Param.newBuilder().setName("k").setType(scalar(ScalarType.SCALAR_TYPE_LONG)))
            .addParams(Param.newBuilder().setName("ks").setType(scalar(ScalarType.SCALAR_TYPE_LONG)).addShape(-1))
            .build();
    Map<String, Value> admitted = Params.admit(signature, Map.of("k", 3, "ks", List.of(1, 2)));
    assertEquals(3L, admitted.get("k").getInt64Value());
    assertEquals(2, admitted.get("ks").getListValue().getValuesCount());
    assertThrows(InvalidRow.class, () -> Params.admit(signature, Map.of("k", 1.5)));
    assertThrows(InvalidRow.class, () -> Params.admit(signature, Map.of("other", 1)));
  }

  /** A parameter that is null is refused by its name, whatever its type; a null that is the default is taken. */
  @Test
  void nullParameters() throws InvalidRow {
    Value none = Value.newBuilder().setNullValue(NullValue.NULL_VALUE).build();
    for (ScalarType type :
        List.of(ScalarType.SCALAR_TYPE_DOUBLE, ScalarType.SCALAR_TYPE_LONG, ScalarType.SCALAR_TYPE_STRING)) {
      Param.Builder param = Param.newBuilder().setName("k").setType(scalar(type));
      Signature refuses =
          Signature.newBuilder().addParams(param).addParams(param.clone().setName("ks").addShape(-1)).build();
      Map<String, Object> given = new HashMap<>();
      given.put("k", null);
      given.put("ks", Collections.singletonList(null));
      InvalidRow refused = assertThrows(InvalidRow.class, () -> Params.admit(refuses, given));
      assertEquals(2, refused.violations().size(), refused.getMessage());
      Signature takes = Signature.newBuilder().addParams(param.setDefaultValue(none)).build();
      assertEquals(none, Params.admit(takes, Collections.singletonMap("k", null)).get("k"));
    }
  }

  /** Every scalar type of the contract is known here. */
  @ParameterizedTest
  @EnumSource(ScalarType.class)
  void everyScalarTypeIsKnown(ScalarType type) {
    boolean sent = type != ScalarType.SCALAR_TYPE_UNSPECIFIED && type != ScalarType.UNRECOGNIZED;
    assertEquals(sent, Leaf.of(type) != null);
  }

  /** A float16 is rounded as IEEE 754 has it, at every number that it has and between any two. */
  @Test
  void halvesAreRounded() throws InvalidRow {
    Type half = Type.newBuilder().setTensor(TensorType.newBuilder().setDtype("float16").addShape(-1)).build();
    float before = 0f;
    for (int bits = 1; bits < 0x7c00; bits++) {
      int exponent = bits >> 10;
      int fraction = bits & 0x3ff;
      double value = exponent == 0 ? fraction * 0x1p-24 : Math.scalb(1 + fraction * 0x1p-10, exponent - 15);
      assertEquals((float) value, column(half, value).getFloats().getValues(0));
      double middle = (before + value) / 2;
      float even = bits % 2 == 0 ? (float) value : before;
      assertEquals(even, column(half, middle).getFloats().getValues(0), "between two, the even one");
      assertEquals((float) value, column(half, Math.nextUp(middle)).getFloats().getValues(0));
      before = (float) value;
    }
    assertEquals(65504f, column(half, 65519.99).getFloats().getValues(0));
    assertEquals("x is outside the range of float16", refusal(half, 65520.0));
    assertFalse(Float.isFinite(column(half, Double.POSITIVE_INFINITY).getFloats().getValues(0)));
  }
}
