package io.prinz.enricher.client;

import io.grpc.Status;
import java.util.regex.Pattern;

/** Says in one sentence what is wrong with a connection that could not be made. */
final class ConnectionFaults {
  static final String UNUSABLE_FILES =
      "TLS can't use the files of the client: they must be undamaged PEM, and the key that of the certificate";

  /** What gRPC, Netty and the JVM say, and what it means; the first that is found counts. */
  private static final String[][] FAULTS = {
    {"not an SSL/TLS record", "the server has no TLS at this address: connect without TLS, or to the port that has it"},
    {"CertificateExpiredException", "the server's certificate has expired: the operator must renew it"},
    {"CertificateNotYetValid", "the server's certificate is not valid yet: check the clocks of both machines"},
    {"PKIX path|CertPath", "no trusted CA signed the server's certificate: set tls to the file of the one that did"},
    {
      "No subject alternative|No name matching",
      "the server's certificate has other names than the address: use a name that it has, as address or server name"
    },
    {"KEY_VALUES_MISMATCH", UNUSABLE_FILES},
    {"dump for first 5 bytes: 1503", "the server requires TLS: connect with TLS"},
    {"was not SETTINGS|ALPN", "the server at this address does not use HTTP/2: connect to the port of its gRPC"},
  };

  private static final Pattern CLOSED =
      Pattern.compile("ALERT_|Network closed for unknown reason|Connection reset|Connection closed");

  private ConnectionFaults() {}

  /** Gives the sentence; null where it can't be told what is wrong. */
  static String of(Status status, Connection connection) {
    StringBuilder said = new StringBuilder(String.valueOf(status.getDescription()));
    for (Throwable cause = status.getCause(); cause != null; cause = cause.getCause()) {
      said.append('\n').append(cause);
    }
    for (String[] fault : FAULTS) {
      if (Pattern.compile(fault[0]).matcher(said).find()) {
        return fault[1];
      }
    }
    return CLOSED.matcher(said).find() ? closed(connection) : null;
  }

  private static String closed(Connection connection) {
    String closed = "the server closed the connection at once; it may ";
    if (!connection.isTls()) {
      return closed + "require TLS: connect with TLS";
    }
    if (connection.certificate() == null) {
      return closed + "require a client certificate: set certificate and key";
    }
    return closed
        + "refuse the client's certificate: use one that has not expired, of a CA that the server trusts";
  }
}
