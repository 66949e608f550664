package io.prinz.enricher.values;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.springframework.expression.spel.standard.SpelExpressionParser;

/** The record that the service's console shows for SpEL, of every type, by the SpEL that Nussknacker has. */
class ConsoleSnippetTest {
  /** It has the values of the form, exactly; the test of the console sees that the console shows this text. */
  @Test
  void theSnippetHasTheValuesOfTheForm() throws Exception {
    String snippet = Files.readString(Path.of("src/test/resources/console.spel"));
    Map<?, ?> record = (Map<?, ?>) new SpelExpressionParser().parseExpression(snippet).getValue();
    assertEquals(9007199254740993L, record.get("long"));
    assertEquals(-2147483648L, record.get("integer"));
    assertEquals(0.5, record.get("float"));
    assertEquals(true, record.get("flag"));
    assertEquals("a 'b' \"c\" $d \\ ß", record.get("text"));
    assertEquals("2024-03-01T01:59:59.123456+02:00", record.get("at"));
    assertEquals(List.of(Long.MIN_VALUE, 1), record.get("list"));
    assertEquals(Map.of("it's", "1969-07-20T20:17:40Z"), record.get("map"));
    assertEquals(Map.of("b", Arrays.asList(1, 1.5, null, "x")), record.get("any"));
    assertArrayEquals(new byte[] {0, -1}, (byte[]) record.get("bytes"));
    assertArrayEquals(new byte[] {-1}, (byte[]) ((Map<?, ?>) record.get("record")).get("a"));
  }
}
