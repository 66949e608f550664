package io.prinz.enricher.client;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** The real service as a process of its own, on a port of its own; ends with this JVM. */
public final class ServiceProcess implements AutoCloseable {
  private final Process process;
  private final int port;
  private final List<String> log = new ArrayList<>();
  private final CountDownLatch serving = new CountDownLatch(1);
  private final Thread reader;

  /** Starts it, and waits until it serves the models of these names, loaded; an asterisk stands for any text. */
  public ServiceProcess(int port, String preload, String... flags) throws IOException, InterruptedException {
    this(port, Map.of(), preload, flags);
  }

  /** Starts it with more variables. */
  ServiceProcess(int port, Map<String, String> variables, String preload, String... flags)
      throws IOException, InterruptedException {
    this.port = port;
    String python = variable("PRINZ_TEST_PYTHON");
    ProcessBuilder builder =
        new ProcessBuilder(
            python, "-P", "-S", variable("PRINZ_TEST_WATCHDOG"), "10", python, "-m", "prinz_enricher.cli", "serve",
            "--port", Integer.toString(port), "--registry", registry(), "--log-format", "json", "--preload", preload);
    builder.command().addAll(List.of(flags));
    builder.environment().put("PRINZ_REGISTRY__REFRESH_INTERVAL", "0.2");
    builder.environment().putAll(variables);
    builder.redirectErrorStream(true);
    process = builder.start();
    reader = new Thread(this::read, "service-log");
    reader.setDaemon(true);
    reader.start();
    if (!serving.await(120, TimeUnit.SECONDS) || !process.isAlive()) {
      close();
      throw new IOException("the service did not start:\n" + String.join("\n", log));
    }
  }

  /** The registry's URL. */
  public static String registry() {
    return variable("PRINZ_TEST_REGISTRY");
  }

  private static String variable(String name) {
    String value = System.getenv(name);
    if (value == null) {
      throw new IllegalStateException(name + " is not set; run make test-nussknacker");
    }
    return value;
  }

  /** Finds a port that nobody listens on. */
  public static int freePort() throws IOException {
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      return socket.getLocalPort();
    }
  }

  /** Has an alias of the registry point to a version. */
  public static void moveAlias(String model, String alias, String version) throws IOException, InterruptedException {
    String body = String.format("{\"name\": \"%s\", \"alias\": \"%s\", \"version\": \"%s\"}", model, alias, version);
    HttpRequest request =
        HttpRequest.newBuilder(URI.create(registry() + "/api/2.0/mlflow/registered-models/alias"))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
    // By default it asks for an upgrade to HTTP/2, upon which uvicorn with httptools, under MLflow, loses the body.
    HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    HttpResponse<String> response =
        client.send(request, HttpResponse.BodyHandlers.ofString(StandardCharsets.UTF_8));
    if (response.statusCode() != 200) {
      throw new IOException(response.body());
    }
  }

  /** Where it listens. */
  public String address() {
    return "127.0.0.1:" + port;
  }

  private void read() {
    try (BufferedReader lines =
        new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        if (log.size() < 1000) {
          log.add(line);
        }
        if (line.contains("\"event\": \"serving\"") || line.contains("\"event\":\"serving\"")) {
          serving.countDown();
        }
      }
    } catch (IOException ended) {
      log.add(ended.toString());
    } finally {
      serving.countDown();
    }
  }

  @Override
  public void close() {
    try {
      process.getOutputStream().close();
      if (!process.waitFor(60, TimeUnit.SECONDS)) {
        process.destroyForcibly();
      }
      reader.join(10_000);
    } catch (IOException closed) {
      process.destroyForcibly();
    } catch (InterruptedException stop) {
      process.destroyForcibly();
      Thread.currentThread().interrupt();
    }
  }

  /** A row of the model that answers with what it saw, in the classes that the other rows are compared with. */
  public static Map<String, Object> seen(String text) {
    Map<String, Object> row = new java.util.HashMap<>();
    row.put("a double", 0.1);
    row.put("a long", (1L << 53) + 1);
    row.put("a integer", 7);
    row.put("a float", 0.5f);
    row.put("a boolean", true);
    row.put("a string", text);
    row.put("a datetime", java.time.LocalDateTime.of(2026, 11, 23, 14, 5, 6, 250_000_000));
    row.put("a binary", new byte[] {0, 1, -1});
    row.put("perhaps a double", null);
    row.put("perhaps a string", "there");
    row.put("series", List.of(1.0, 2.0));
    row.put("thing", Map.of("id", 5L, "note", "n"));
    return row;
  }
}
