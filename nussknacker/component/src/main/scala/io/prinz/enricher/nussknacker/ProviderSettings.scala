package io.prinz.enricher.nussknacker

import com.typesafe.config.{Config, ConfigException, ConfigFactory, ConfigRenderOptions}
import io.prinz.enricher.client.Connection

import java.nio.file.Paths
import java.time.Duration
import scala.jdk.CollectionConverters._

/** What is configured of one provider.
  *
  * @param name
  *   of the enricher, where it is one for all models
  * @param connection
  *   the part of the configuration that says how the service is reached, as text: a connection itself is not
  *   serializable, and this travels to the engine
  * @param timeout
  *   for each event
  * @param models
  *   patterns of the names of models that are shown; an asterisk stands for any text
  * @param versions
  *   how many versions of a model are shown at most, besides those of its aliases
  * @param perModel
  *   whether there is an enricher for each model rather than one for all
  * @param mocked
  *   whether tests of scenarios get made up values rather than scores
  * @param mocks
  *   by model: the outputs in tests, as JSON
  * @param restartWhenAway
  *   whether a service that is not reached is told to the engine as a reason to start the job again
  */
final case class ProviderSettings(
    name: String,
    connection: String,
    timeout: Duration,
    models: List[String],
    versions: Int,
    perModel: Boolean,
    mocked: Boolean,
    mocks: Map[String, String],
    restartWhenAway: Boolean
) {

  /** Makes the connection.
    *
    * @throws IllegalArgumentException
    *   it makes no sense, such as a token that would go over the network for all to read
    */
  def connect(): Connection = ProviderSettings.connectionOf(ConfigFactory.parseString(connection))

  /** Tells whether a model is shown. */
  def shows(model: String): Boolean = models.exists { pattern =>
    model.matches(pattern.split("\\*", -1).map(java.util.regex.Pattern.quote).mkString(".*"))
  }

}

object ProviderSettings {
  private val Connecting = List("address", "addresses", "tls", "token", "tokenFile", "allowInsecureToken")

  private val Own = Set("name", "timeout", "models", "versions", "perModel", "inTests", "mocks", "restartWhenAway")

  // The engine's own keys of a provider, and what resolving the configuration adds.
  private val Foreign = Set("providerType", "componentPrefix", "disabled", Definitions.Key)

  /** Reads a provider's section.
    *
    * @throws ConfigException
    *   a value is missing, of the wrong type, or of a name that nobody knows
    */
  def read(config: Config): ProviderSettings = {
    val unknown = config.root().keySet().asScala.toSet -- Connecting -- Own -- Foreign
    if (unknown.nonEmpty) {
      throw new ConfigException.BadPath(unknown.min, "prinzEnricher has no such setting")
    }
    val connecting = Connecting.filter(config.hasPath).foldLeft(ConfigFactory.empty()) { (kept, key) =>
      kept.withValue(key, config.getValue(key))
    }
    val settings = ProviderSettings(
      name = string(config, "name", "prinz"),
      connection = connecting.root().render(ConfigRenderOptions.concise()),
      timeout = if (config.hasPath("timeout")) config.getDuration("timeout") else Duration.ofSeconds(3),
      models = if (config.hasPath("models")) config.getStringList("models").asScala.toList else List("*"),
      versions = if (config.hasPath("versions")) config.getInt("versions") else 50,
      perModel = config.hasPath("perModel") && config.getBoolean("perModel"),
      mocked = string(config, "inTests", "score") match {
        case "score" => false
        case "mock"  => true
        case other   => throw new ConfigException.BadValue("inTests", s"$other is neither score nor mock")
      },
      mocks = if (config.hasPath("mocks")) mocks(config) else Map.empty,
      restartWhenAway = config.hasPath("restartWhenAway") && config.getBoolean("restartWhenAway")
    )
    if (settings.timeout.isNegative || settings.timeout.isZero) {
      throw new ConfigException.BadValue("timeout", "it must be more than nothing")
    }
    try settings.connect()
    catch {
      case wrong: IllegalArgumentException => throw new ConfigException.BadValue("address", wrong.getMessage, wrong)
    }
    settings
  }

  private def string(config: Config, key: String, default: String): String =
    if (config.hasPath(key)) config.getString(key) else default

  private def mocks(config: Config): Map[String, String] =
    config.getObject("mocks").asScala.map { case (model, outputs) =>
      model -> outputs.render(ConfigRenderOptions.concise())
    }.toMap

  private def connectionOf(config: Config): Connection = {
    val addresses =
      if (config.hasPath("addresses")) config.getStringList("addresses")
      else java.util.Collections.singletonList(config.getString("address"))
    val builder = Connection.to(addresses)
    if (config.hasPath("tls")) {
      val tls  = config.getConfig("tls")
      def file(key: String) = Paths.get(tls.getString(key))
      builder.tls(if (tls.hasPath("ca")) file("ca") else null)
      if (tls.hasPath("certificate")) builder.certificate(file("certificate"), file("key"))
      if (tls.hasPath("serverName")) builder.serverName(tls.getString("serverName"))
    }
    if (config.hasPath("token")) builder.token(config.getString("token"))
    if (config.hasPath("tokenFile")) builder.tokenFile(Paths.get(config.getString("tokenFile")))
    if (config.hasPath("allowInsecureToken") && config.getBoolean("allowInsecureToken")) builder.allowInsecureToken()
    builder.build()
  }

}
