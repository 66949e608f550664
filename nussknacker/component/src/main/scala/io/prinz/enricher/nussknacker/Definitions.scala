package io.prinz.enricher.nussknacker

import com.typesafe.config.{Config, ConfigFactory, ConfigValueFactory}
import io.prinz.enricher.client.{EnricherClient, EnricherException, ModelReference}
import io.prinz.enricher.v1.{Model, Signature}

import java.time.Duration
import java.util.Base64
import scala.jdk.CollectionConverters._

/** A model as a form shows it.
  *
  * @param name
  *   the registered model's
  * @param default
  *   the version that is taken where none is chosen, when this was read; empty where none can be scored
  * @param aliases
  *   alias to version
  * @param versions
  *   those with a signature, highest number first
  */
final case class ModelDefinition(
    name: String,
    default: String,
    aliases: Map[String, String],
    versions: List[(String, Signature)]
) {

  /** Finds the signature that a choice stands for. */
  def signature(choice: Choice): Option[Signature] = {
    val version = choice match {
      case Choice.Default       => Some(default)
      case Choice.Alias(alias)  => aliases.get(alias)
      case Choice.Version(named) => Some(named)
    }
    version.flatMap(wanted => versions.collectFirst { case (`wanted`, signature) => signature })
  }

}

/** Which version of a model. */
sealed trait Choice extends Serializable {

  /** How the scenario holds it. */
  def text: String

  def of(model: String): ModelReference
}

object Choice {

  case object Default extends Choice {
    override def text: String                      = "default"
    override def of(model: String): ModelReference = ModelReference.ofDefault(model)
  }

  final case class Alias(alias: String) extends Choice {
    override def text: String                      = s"@$alias"
    override def of(model: String): ModelReference = ModelReference.ofAlias(model, alias)
  }

  final case class Version(version: String) extends Choice {
    override def text: String                      = version
    override def of(model: String): ModelReference = ModelReference.ofVersion(model, version)
  }

  def parse(text: String): Choice = text match {
    case "default"                     => Default
    case alias if alias.startsWith("@") => Alias(alias.substring(1))
    case version                       => Version(version)
  }

}

/** The models of a service as they were when the scenario was deployed.
  *
  * @param models
  *   by name
  * @param fault
  *   why they could not be read; empty where they could
  */
final case class Definitions(models: List[ModelDefinition], fault: String) {
  def model(name: String): Option[ModelDefinition] = models.find(_.name == name)
}

/** Definitions are written into the configuration with which a scenario is deployed: a job that starts again needs no
  * registry, and a model whose signature is another one by then is noticed by its digest instead of failing to compile.
  */
object Definitions {
  val Key = "definitions"

  private val ListTimeout = Duration.ofSeconds(10)

  // By connection and patterns: what was read last, for the time in which a service is away.
  private val last = new java.util.concurrent.ConcurrentHashMap[(String, List[String], Int), Config]()

  /** Asks the service for its models, and writes them down. */
  def discover(settings: ProviderSettings): Config = {
    val key = (settings.connection, settings.models, settings.versions)
    try {
      val client = new EnricherClient(settings.connect())
      val models =
        try client.models(ListTimeout).asScala.toList
        finally client.close()
      val read = write(models.filter(model => settings.shows(model.getName)), settings.versions)
      last.put(key, read)
      read
    } catch {
      case away: EnricherException =>
        val fault = ConfigValueFactory.fromAnyRef(away.getMessage)
        Option(last.get(key)).getOrElse(ConfigFactory.empty().withValue("fault", fault))
    }
  }

  private def write(models: List[Model], most: Int): Config = {
    val signatures = new java.util.HashMap[String, String]()
    val written = models.map { model =>
      val named = model.getAliasesMap.asScala.values.toSet + model.getDefaultVersion
      val signed         = model.getVersionsList.asScala.toList.filter(_.hasSignature)
      val (kept, others) = signed.partition(version => named(version.getVersion))
      val shown          = (kept ++ others.take(most)).map(_.getVersion).toSet
      val versions       = new java.util.ArrayList[java.util.Map[String, String]]()
      signed.filter(version => shown(version.getVersion)).foreach { version =>
        val signature = version.getSignature.toBuilder.clearInputArrowSchema().clearOutputArrowSchema().build()
        // What a digest does not tell, such as descriptions, is the first one's.
        signatures.putIfAbsent(signature.getDigest, Base64.getEncoder.encodeToString(signature.toByteArray))
        versions.add(java.util.Map.of("version", version.getVersion, "signature", signature.getDigest))
      }
      java.util.Map.of[String, AnyRef](
        "name", model.getName,
        "default", model.getDefaultVersion,
        "aliases", entries(model.getAliasesMap.asScala.toMap),
        "versions", versions
      )
    }
    ConfigFactory
      .empty()
      .withValue("models", ConfigValueFactory.fromIterable(written.asJava))
      .withValue("signatures", ConfigValueFactory.fromMap(signatures))
  }

  // Aliases may hold what a path of HOCON can't.
  private def entries(aliases: Map[String, String]): java.util.List[java.util.Map[String, String]] =
    aliases.toList.sorted.map { case (alias, version) => java.util.Map.of("alias", alias, "version", version) }.asJava

  /** Reads what was written down. */
  def read(config: Config): Definitions = {
    val fault = if (config.hasPath("fault")) config.getString("fault") else ""
    if (!config.hasPath("models")) {
      return Definitions(Nil, if (fault.isEmpty) "they were not asked for" else fault)
    }
    val signatures = config.getObject("signatures").unwrapped().asScala.map { case (digest, text) =>
      digest -> Signature.parseFrom(Base64.getDecoder.decode(text.toString))
    }
    val models = config.getConfigList("models").asScala.toList.map { model =>
      ModelDefinition(
        name = model.getString("name"),
        default = model.getString("default"),
        aliases = model
          .getConfigList("aliases")
          .asScala
          .map(one => one.getString("alias") -> one.getString("version"))
          .toMap,
        versions = model
          .getConfigList("versions")
          .asScala
          .toList
          .map(one => one.getString("version") -> signatures(one.getString("signature")))
      )
    }
    Definitions(models, fault)
  }

}
