package io.prinz.enricher.client;

import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.function.Supplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** Where a service is, and how it is reached. Two that are equal share their channels. */
public final class Connection {
  private static final Pattern HOST_PORT = Pattern.compile("(?:dns:(?:///|//[^/]*/)?)?(\\[[^]]+]|[^:/\\[\\]]+)(?::(\\d{1,5}))?");

  private final List<String> addresses;
  private final boolean tls;
  private final Path ca;
  private final Path certificate;
  private final Path key;
  private final String serverName;
  private final String token;
  private final Supplier<String> tokenSupplier;
  private final Path tokenFile;

  private Connection(Builder builder) {
    addresses = List.copyOf(builder.addresses);
    tls = builder.tls;
    ca = builder.ca;
    certificate = builder.certificate;
    key = builder.key;
    serverName = builder.serverName;
    token = builder.token;
    tokenSupplier = builder.tokenSupplier;
    tokenFile = builder.tokenFile;
  }

  /**
   * Begins with where the service is.
   *
   * @param addresses {@code HOST:PORT} or {@code dns:///HOST:PORT}; of several, each call goes to the next one
   */
  public static Builder to(List<String> addresses) {
    return new Builder(addresses);
  }

  /** Where the service is. */
  public List<String> addresses() {
    return addresses;
  }

  boolean isTls() {
    return tls;
  }

  Path ca() {
    return ca;
  }

  Path certificate() {
    return certificate;
  }

  Path key() {
    return key;
  }

  String serverName() {
    return serverName;
  }

  /** The token of each call; null for none. */
  Token token() {
    if (tokenFile != null) {
      return new Token(tokenFile);
    }
    if (tokenSupplier != null) {
      return new Token(tokenSupplier);
    }
    return token.isEmpty() ? null : new Token(() -> token);
  }

  private List<Object> parts() {
    Object[] parts = {addresses, tls, ca, certificate, key, serverName, token, tokenSupplier, tokenFile};
    return java.util.Arrays.asList(parts);
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Connection && parts().equals(((Connection) other).parts());
  }

  @Override
  public int hashCode() {
    return parts().hashCode();
  }

  @Override
  public String toString() {
    return String.join(", ", addresses) + (tls ? " (TLS)" : "");
  }

  /** Puts a connection together. */
  public static final class Builder {
    private final List<String> addresses;
    private boolean tls;
    private Path ca;
    private Path certificate;
    private Path key;
    private String serverName = "";
    private String token = "";
    private Supplier<String> tokenSupplier;
    private Path tokenFile;
    private boolean insecureToken;

    private Builder(List<String> addresses) {
      this.addresses = Objects.requireNonNull(addresses);
    }

    /**
     * Encrypts it.
     *
     * @param ca PEM file of the authorities that are believed; null for those of the JVM
     */
    public Builder tls(Path ca) {
      this.tls = true;
      this.ca = ca;
      return this;
    }

    /**
     * Shows a certificate, where the service asks for one.
     *
     * @param certificate PEM file
     * @param key PEM file of its private key, without a password
     */
    public Builder certificate(Path certificate, Path key) {
      this.certificate = Objects.requireNonNull(certificate);
      this.key = Objects.requireNonNull(key);
      return this;
    }

    /** Names the name that the service's certificate must bear, where it is not the one in the address. */
    public Builder serverName(String name) {
      this.serverName = Objects.requireNonNull(name);
      return this;
    }

    /** The bearer token of each call; empty for none. */
    public Builder token(String value) {
      this.token = Objects.requireNonNull(value);
      return this;
    }

    /** What supplies the token of each call; it is called in the caller's thread, and must be quick. */
    public Builder token(Supplier<String> supplier) {
      this.tokenSupplier = Objects.requireNonNull(supplier);
      return this;
    }

    /** The file of the token, which is read again every second. */
    public Builder tokenFile(Path file) {
      this.tokenFile = Objects.requireNonNull(file);
      return this;
    }

    /** Lets the token go unencrypted to other machines. */
    public Builder allowInsecureToken() {
      this.insecureToken = true;
      return this;
    }

    /**
     * Checks it all.
     *
     * @throws IllegalArgumentException there is no address, one is not HOST:PORT, several tokens are given, TLS is described
     *     and not asked for, or the token would go over the network for all to read
     */
    public Connection build() {
      if (addresses.isEmpty()) {
        throw new IllegalArgumentException("an address is needed, such as localhost:50051");
      }
      long tokens = Stream.of(token.isEmpty() ? null : token, tokenSupplier, tokenFile).filter(Objects::nonNull).count();
      if (tokens > 1) {
        throw new IllegalArgumentException("a token is given in several ways, as itself, by a supplier or as a file: give one");
      }
      if (!tls && (certificate != null || !serverName.isEmpty())) {
        throw new IllegalArgumentException("a certificate or a server's name is given, but not TLS");
      }
      for (String address : addresses) {
        Matcher found = HOST_PORT.matcher(address);
        if (!found.matches()) {
          throw new IllegalArgumentException(address + " is no address, such as localhost:50051");
        }
        if (tokens > 0 && !tls && !insecureToken && !isLoopback(found.group(1))) {
          throw new IllegalArgumentException(
              "the token would be sent to " + address + " unencrypted: use TLS, or allow an insecure token");
        }
      }
      return new Connection(this);
    }

    private static boolean isLoopback(String host) {
      return host.equals("localhost") || host.matches("127(\\.\\d{1,3}){3}") || host.equals("[::1]");
    }
  }
}
