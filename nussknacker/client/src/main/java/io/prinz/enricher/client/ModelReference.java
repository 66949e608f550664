package io.prinz.enricher.client;

import io.prinz.enricher.v1.ModelRef;
import java.util.Objects;

/** Names a version of a registered model. */
public final class ModelReference {
  private final String name;
  private final String version;
  private final String alias;

  private ModelReference(String name, String version, String alias) {
    this.name = Objects.requireNonNull(name);
    this.version = version;
    this.alias = alias;
  }

  /** The version that the service takes where none is named. */
  public static ModelReference ofDefault(String name) {
    return new ModelReference(name, null, null);
  }

  /** A version by its number. */
  public static ModelReference ofVersion(String name, String version) {
    return new ModelReference(name, Objects.requireNonNull(version), null);
  }

  /** The version that an alias points to, whenever it is asked for. */
  public static ModelReference ofAlias(String name, String alias) {
    return new ModelReference(name, null, Objects.requireNonNull(alias));
  }

  ModelRef toMessage() {
    ModelRef.Builder message = ModelRef.newBuilder().setName(name);
    if (version != null) {
      message.setVersion(version);
    } else if (alias != null) {
      message.setAlias(alias);
    }
    return message.build();
  }

  @Override
  public String toString() {
    return version != null ? name + ":" + version : alias != null ? name + "@" + alias : name;
  }
}
