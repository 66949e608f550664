package io.prinz.enricher.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigObject;
import com.typesafe.config.ConfigUtil;
import io.prinz.enricher.v1.Field;
import io.prinz.enricher.v1.Model;
import io.prinz.enricher.v1.ModelVersion;
import io.prinz.enricher.v1.Signature;
import io.prinz.enricher.v1.Type;
import io.swagger.parser.OpenAPIParser;
import io.swagger.v3.oas.models.OpenAPI;
import io.swagger.v3.oas.models.Operation;
import io.swagger.v3.oas.models.PathItem;
import io.swagger.v3.oas.models.media.Content;
import io.swagger.v3.oas.models.media.Schema;
import io.swagger.v3.parser.core.models.ParseOptions;
import io.swagger.v3.parser.core.models.SwaggerParseResult;
import java.math.BigDecimal;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;

/** The document for Nussknacker's stock OpenAPI enricher, read by the parser that Nussknacker 1.18 reads it with. */
@Timeout(180)
@EnabledIfEnvironmentVariable(named = "PRINZ_TEST_REGISTRY", matches = ".+", disabledReason = "needs make test-nussknacker")
class StockEnricherTest {
  private static final Duration LONG = Duration.ofSeconds(60);
  private static final String DOCUMENT = "/nussknacker/openapi.json";

  private static ServiceProcess service;
  private static String api;
  private static Map<String, Signature> signatures;
  private static OpenAPI document;

  @BeforeAll
  static void read() throws Exception {
    int port = ServiceProcess.freePort();
    service = new ServiceProcess(ServiceProcess.freePort(), "none", "--api-port", Integer.toString(port));
    ParseOptions options = new ParseOptions();
    options.setResolve(true);
    api = "http://127.0.0.1:" + port;
    SwaggerParseResult parsed = new OpenAPIParser().readLocation(api + DOCUMENT, List.of(), options);
    assertEquals(List.of(), parsed.getMessages() == null ? List.of() : parsed.getMessages());
    document = parsed.getOpenAPI();
    try (EnricherClient client = new EnricherClient(Connection.to(List.of(service.address())).build())) {
      signatures = signaturesByPath(client.models(LONG));
    }
  }

  @AfterAll
  static void stop() {
    service.close();
  }

  /** Each default version and alias, by the rest of its path. */
  private static Map<String, Signature> signaturesByPath(List<Model> models) {
    Map<String, Signature> found = new TreeMap<>();
    for (Model model : models) {
      Map<String, Signature> versions =
          model.getVersionsList().stream()
              .collect(Collectors.toMap(ModelVersion::getVersion, ModelVersion::getSignature));
      Map<String, String> targets = new TreeMap<>(Map.of("", model.getDefaultVersion()));
      model.getAliasesMap().forEach((alias, version) -> targets.put("/" + alias, version));
      targets.forEach(
          (alias, version) -> {
            Signature signature = versions.get(version);
            String name = URLEncoder.encode(model.getName(), StandardCharsets.UTF_8).replace("+", "%20");
            found.put(name + alias + "/" + signature.getDigest().substring(0, 8), signature);
          });
    }
    return found;
  }

  /** There is an operation for a row, and one for many, of each default version and alias; each has a name of its own. */
  @Test
  void everyModelIsAnOperation() {
    Set<String> expected = new HashSet<>();
    for (String path : signatures.keySet()) {
      expected.add("/nussknacker/v1/score/" + path);
      expected.add("/nussknacker/v1/score-many/" + path);
    }
    assertEquals(expected, document.getPaths().keySet());
    Set<String> names = new HashSet<>();
    for (PathItem item : document.getPaths().values()) {
      assertEquals(Set.of(PathItem.HttpMethod.POST), item.readOperationsMap().keySet());
      Operation operation = item.getPost();
      assertTrue(operation.getOperationId().matches("score-[A-Za-z0-9_-]+"), operation.getOperationId());
      assertTrue(names.add(operation.getOperationId()), operation.getOperationId());
      assertNull(operation.getParameters());
      List<String> answers =
          operation.getResponses().keySet().stream().filter(code -> code.startsWith("2")).collect(Collectors.toList());
      assertEquals(List.of("200"), answers);
    }
    assertTrue(names.containsAll(List.of("score-every-type", "score-every-type-many", "score-moving-champion")));
  }

  /** Each input and output has the type by which Nussknacker loses nothing of it, both of a row and of many. */
  @Test
  void everyFieldHasItsType() {
    signatures.forEach(
        (path, signature) -> {
          String inputs = typeOf(signature.getInputsList(), Map.of());
          String outputs = typeOf(signature.getOutputsList(), Map.of("modelVersion", "String"));
          Operation one = document.getPaths().get("/nussknacker/v1/score/" + path).getPost();
          Operation many = document.getPaths().get("/nussknacker/v1/score-many/" + path).getPost();
          assertEquals(inputs, inputOf(one), path);
          assertEquals(outputs, outputOf(one), path);
          assertEquals("List[" + inputs + "]", inputOf(many), path);
          assertEquals("List[" + outputs + "]", outputOf(many), path);
        });
  }

  /** The types that this service has are among those of the models here, in both directions. */
  @Test
  void everyTypeIsThere() {
    for (String name : List.of("score-every-type", "score-some-tensors")) {
      Operation operation =
          document.getPaths().values().stream()
              .map(PathItem::getPost)
              .filter(one -> one.getOperationId().equals(name))
              .findFirst()
              .orElseThrow();
      for (String types : List.of(inputOf(operation), outputOf(operation))) {
        List<String> wanted =
            name.equals("score-some-tensors")
                ? List.of("pixels: List[List[Double]]", "count: BigDecimal", "small: List[Integer]")
                : List.of(
                    "a boolean: Boolean", "a integer: Integer", "a long: BigDecimal", "a float: Double",
                    "a double: Double", "a string: String", "a binary: String", "a datetime: ZonedDateTime",
                    "series: List[BigDecimal]", "thing: {id: BigDecimal, note: String}",
                    "ratings: Map[String, Double]", "things: List[{at: ZonedDateTime}]", "extra: Unknown",
                    "perhaps: BigDecimal");
        for (String type : wanted) {
          assertTrue(types.contains(type), type + " is not in " + types);
        }
      }
    }
  }

  /** What `prinz-enricher nussknacker-config` prints is HOCON, and has each field of each operation, by its name. */
  @Test
  void configurationHasEveryField() throws Exception {
    Process command =
        new ProcessBuilder(
                System.getenv("PRINZ_TEST_PYTHON"), "-m", "prinz_enricher.cli", "nussknacker-config", "--api", api)
            .redirectError(ProcessBuilder.Redirect.INHERIT)
            .start();
    String printed = new String(command.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertEquals(0, command.waitFor());
    Config config = ConfigFactory.parseString(printed).resolve();
    assertEquals(api + DOCUMENT, config.getString("components.prinz.url"));
    ConfigObject enrichers = config.getObject("componentsUiConfig");
    assertEquals(
        document.getPaths().values().stream().map(one -> one.getPost().getOperationId()).collect(Collectors.toSet()),
        enrichers.keySet());
    signatures.forEach(
        (path, signature) -> {
          String id = document.getPaths().get("/nussknacker/v1/score/" + path).getPost().getOperationId();
          Config params = enrichers.toConfig().getConfig(ConfigUtil.joinPath(id, "params"));
          assertEquals(signature.getInputsCount(), params.root().size());
          for (Field field : signature.getInputsList()) {
            Config param = params.getConfig(ConfigUtil.joinPath(field.getName()));
            assertTrue(param.getString("label").startsWith(field.getName() + " ("), printed);
            assertEquals(field.getRequired(), param.hasPath("validators"), field.getName());
          }
          Config many = enrichers.toConfig().getConfig(ConfigUtil.joinPath(id + "-many", "params"));
          assertEquals(Set.of("body"), many.root().keySet());
        });
  }

  private static String inputOf(Operation operation) {
    return typeOf(schemaOf(operation.getRequestBody().getContent()));
  }

  private static String outputOf(Operation operation) {
    return typeOf(schemaOf(operation.getResponses().get("200").getContent()));
  }

  private static Schema<?> schemaOf(Content content) {
    assertEquals(Set.of("application/json"), content.keySet());
    return content.get("application/json").getSchema();
  }

  /** What Nussknacker 1.18 has for a schema, as its SwaggerTyped does it. */
  private static String typeOf(Schema<?> schema) {
    String format = schema.getFormat();
    assertNull(schema.getEnum());
    assertNull(schema.getNullable());
    if (schema.getType() == null) {
      assertNull(schema.getProperties());
      return "Unknown";
    }
    switch (schema.getType()) {
      case "boolean":
        return "Boolean";
      case "string":
        return "date-time".equals(format) ? "ZonedDateTime" : "String";
      case "number":
        // Any other format, and Nussknacker drops the operation.
        assertTrue(format == null || Set.of("float", "double").contains(format), format);
        return format == null ? "BigDecimal" : "Double";
      case "integer":
        // By its bounds alone.
        assertEquals(BigDecimal.valueOf(Integer.MIN_VALUE), schema.getMinimum());
        assertEquals(BigDecimal.valueOf(Integer.MAX_VALUE), schema.getMaximum());
        return "Integer";
      case "array":
        return "List[" + typeOf(schema.getItems()) + "]";
      case "object":
        if (schema.getAdditionalProperties() instanceof Schema) {
          return "Map[String, " + typeOf((Schema<?>) schema.getAdditionalProperties()) + "]";
        }
        Map<String, String> fields = new TreeMap<>();
        Map<?, ?> properties = schema.getProperties() == null ? Map.of() : schema.getProperties();
        properties.forEach((name, type) -> fields.put((String) name, typeOf((Schema<?>) type)));
        return record(fields);
      default:
        throw new AssertionError("Nussknacker has no such type: " + schema.getType());
    }
  }

  private static String record(Map<String, String> fields) {
    return fields.entrySet().stream()
        .map(field -> field.getKey() + ": " + field.getValue())
        .collect(Collectors.joining(", ", "{", "}"));
  }

  private static String typeOf(List<Field> fields, Map<String, String> more) {
    Map<String, String> found = new TreeMap<>(more);
    fields.forEach(field -> found.put(field.getName(), typeOf(field.getType())));
    return record(found);
  }

  /** What a type of the contract is to be for Nussknacker. */
  private static String typeOf(Type type) {
    switch (type.getKindCase()) {
      case SCALAR:
        switch (type.getScalar()) {
          case SCALAR_TYPE_BOOLEAN:
            return "Boolean";
          case SCALAR_TYPE_INTEGER:
            return "Integer";
          case SCALAR_TYPE_LONG:
            return "BigDecimal";
          case SCALAR_TYPE_FLOAT:
          case SCALAR_TYPE_DOUBLE:
            return "Double";
          case SCALAR_TYPE_DATETIME:
            return "ZonedDateTime";
          default:
            return "String";
        }
      case LIST:
        return "List[" + typeOf(type.getList().getItems()) + "]";
      case MAP:
        return "Map[String, " + typeOf(type.getMap().getValues()) + "]";
      case RECORD:
        return typeOf(type.getRecord().getFieldsList(), Map.of());
      case TENSOR:
        int depth = type.getTensor().getShapeCount() - 1;
        return "List[".repeat(depth) + ofDtype(type.getTensor().getDtype()) + "]".repeat(depth);
      default:
        return "Unknown";
    }
  }

  private static String ofDtype(String dtype) {
    Map<String, String> types =
        Map.of("float64", "Double", "float32", "Double", "int64", "BigDecimal", "int32", "Integer", "uint8", "Integer");
    return types.getOrDefault(dtype, "no type of a test's model: " + dtype);
  }
}
