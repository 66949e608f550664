package io.prinz.enricher.client;

import io.grpc.CallCredentials;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ConnectivityState;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The channels of a connection: one for each address, each over all machines that its name stands for. */
final class Channels {
  private static final int MOST_BYTES = 256 << 20;

  private final List<ManagedChannel> channels = new ArrayList<>();
  private final AtomicInteger turn = new AtomicInteger();
  private final Connection connection;
  private final Token token;

  /**
   * Makes the channels; none connects before it is called.
   *
   * @param executor runs what is to be done with answers
   */
  Channels(Connection connection, Executor executor) {
    ChannelCredentials credentials = credentials(connection);
    token = connection.token();
    this.connection = connection;
    for (String address : connection.addresses()) {
      String target = address.startsWith("dns:") ? address : "dns:///" + address;
      ManagedChannelBuilder<?> builder =
          builder(target, credentials)
              .executor(executor)
              .offloadExecutor(executor)
              .defaultLoadBalancingPolicy("round_robin")
              .maxInboundMessageSize(MOST_BYTES)
              // A host that went without a word is found by what is sent and not acknowledged.
              .keepAliveTime(310, TimeUnit.SECONDS)
              .keepAliveTimeout(20, TimeUnit.SECONDS);
      if (!connection.serverName().isEmpty()) {
        builder.overrideAuthority(connection.serverName());
      }
      channels.add(builder.build());
    }
  }

  private static ManagedChannelBuilder<?> builder(String target, ChannelCredentials credentials) {
    try {
      return Grpc.newChannelBuilder(target, credentials);
    } catch (RuntimeException unusable) {
      // Netty reads the files of TLS now; the target was checked.
      throw new IllegalArgumentException(ConnectionFaults.UNUSABLE_FILES, unusable);
    }
  }

  private static ChannelCredentials credentials(Connection connection) {
    if (!connection.isTls()) {
      return InsecureChannelCredentials.create();
    }
    TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
    try {
      if (connection.ca() != null) {
        tls.trustManager(pem(connection.ca(), "CERTIFICATE"));
      }
      if (connection.certificate() != null) {
        tls.keyManager(pem(connection.certificate(), "CERTIFICATE"), pem(connection.key(), "PRIVATE KEY"));
      }
    } catch (IOException unreadable) {
      throw new UncheckedIOException("a file for TLS can't be read: " + unreadable.getMessage(), unreadable);
    }
    return tls.build();
  }

  /** Checks that a file is PEM, of which Netty would say no more than that it can't use it. */
  private static File pem(Path file, String label) throws IOException {
    Matcher found = Pattern.compile("-----BEGIN ([A-Z0-9 ]*)" + label + "-----").matcher(Files.readString(file));
    if (!found.find()) {
      String wanted = label.toLowerCase(Locale.ROOT);
      throw new IllegalArgumentException(
          file + " has no " + wanted + ": it needs one in PEM, from -----BEGIN " + label + "----- on");
    }
    if (found.group(1).startsWith("ENCRYPTED")) {
      throw new IllegalArgumentException("the private key in " + file + " has a password: remove it, as openssl pkey does");
    }
    return file.toFile();
  }

  Connection connection() {
    return connection;
  }

  /** The token of each call; null for none. */
  CallCredentials token() {
    return token;
  }

  /** How many addresses there are. */
  int size() {
    return channels.size();
  }

  /** Gives the channel whose turn it is, of those that are not known to be down. */
  Channel next() {
    int first = Math.floorMod(turn.getAndIncrement(), channels.size());
    for (int step = 0; step < channels.size(); step++) {
      int place = (first + step) % channels.size();
      if (channels.get(place).getState(false) != ConnectivityState.TRANSIENT_FAILURE) {
        return channels.get(place);
      }
    }
    return channels.get(first);
  }

  /** Has those that failed to connect try again now, rather than in a minute or two. */
  void reconnect() {
    for (ManagedChannel channel : channels) {
      if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
        channel.resetConnectBackoff();
      }
    }
  }

  /** Ends them, with the calls that are on their way. */
  void close() {
    channels.forEach(ManagedChannel::shutdownNow);
  }

  /** Waits until they have ended; tells whether they did in time. */
  boolean awaitEnd(long nanos) throws InterruptedException {
    long limit = System.nanoTime() + nanos;
    for (ManagedChannel channel : channels) {
      if (!channel.awaitTermination(Math.max(0, limit - System.nanoTime()), TimeUnit.NANOSECONDS)) {
        return false;
      }
    }
    return true;
  }
}
