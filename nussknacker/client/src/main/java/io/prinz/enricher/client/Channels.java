package io.prinz.enricher.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ConnectivityState;
import io.grpc.ForwardingClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** The channels of a connection: one for each address, each over all machines that its name stands for. */
final class Channels {
  private static final int MOST_BYTES = 256 << 20;
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final List<ManagedChannel> channels = new ArrayList<>();
  private final List<Channel> called = new ArrayList<>();
  private final AtomicInteger turn = new AtomicInteger();

  /**
   * Makes the channels; none connects before it is called.
   *
   * @param executor runs what is to be done with answers
   */
  Channels(Connection connection, Executor executor) {
    ChannelCredentials credentials = credentials(connection);
    Token token = new Token(connection.token(), connection.tokenFile());
    for (String address : connection.addresses()) {
      String target = address.startsWith("dns:") ? address : "dns:///" + address;
      ManagedChannelBuilder<?> builder =
          Grpc.newChannelBuilder(target, credentials)
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
      ManagedChannel channel = builder.build();
      channels.add(channel);
      called.add(token.isNone() ? channel : io.grpc.ClientInterceptors.intercept(channel, new Bearer(token)));
    }
  }

  private static ChannelCredentials credentials(Connection connection) {
    if (!connection.isTls()) {
      return InsecureChannelCredentials.create();
    }
    TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
    try {
      if (connection.ca() != null) {
        tls.trustManager(connection.ca().toFile());
      }
      if (connection.certificate() != null) {
        tls.keyManager(connection.certificate().toFile(), connection.key().toFile());
      }
    } catch (IOException unreadable) {
      throw new UncheckedIOException("a file for TLS can't be read: " + unreadable.getMessage(), unreadable);
    }
    return tls.build();
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
        return called.get(place);
      }
    }
    return called.get(first);
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

  /** Shows the token with each call. */
  private static final class Bearer implements ClientInterceptor {
    private final Token token;

    Bearer(Token token) {
      this.token = token;
    }

    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
      return new ForwardingClientCall.SimpleForwardingClientCall<Q, R>(next.newCall(method, options)) {
        @Override
        public void start(Listener<R> listener, Metadata headers) {
          headers.put(AUTHORIZATION, "Bearer " + token.value());
          super.start(listener, headers);
        }
      };
    }
  }
}
