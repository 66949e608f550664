package io.prinz.enricher.nussknacker

import io.prinz.enricher.client.EnricherClient
import io.prinz.enricher.v1.{Field, Param, Signature}
import pl.touk.nussknacker.engine.api.context.ProcessCompilationError
import pl.touk.nussknacker.engine.api.context.ProcessCompilationError.CustomNodeError
import pl.touk.nussknacker.engine.api.context.ValidationContext
import pl.touk.nussknacker.engine.api.context.transformation.{
  DefinedEagerParameter,
  DefinedLazyParameter,
  NodeDependencyValue,
  SingleInputDynamicComponent
}
import pl.touk.nussknacker.engine.api.definition._
import pl.touk.nussknacker.engine.api.parameter.ParameterName
import pl.touk.nussknacker.engine.api.runtimecontext.EngineRuntimeContext
import pl.touk.nussknacker.engine.api.typed.typing.{TypedClass, TypedObjectTypingResult, TypingResult, Unknown}
import pl.touk.nussknacker.engine.api.{EagerService, NodeId, Params, ServiceInvoker}
import pl.touk.nussknacker.engine.graph.expression.Expression
import pl.touk.nussknacker.engine.util.service.TimeMeasuringService

import scala.jdk.CollectionConverters._

/** What was chosen in a form, and what follows from it.
  *
  * @param raw
  *   whether one expression gives the whole record, or a list of records
  * @param output
  *   the type of what is given to the following nodes
  */
final case class Chosen(model: String, choice: Choice, signature: Signature, raw: Boolean, output: TypingResult)

/** Scores events by models of a service: a form with Model, Version and a field for each input, and a typed record.
  *
  * @param only
  *   the one model that it is for; None where the form chooses one
  */
class ModelEnricher(settings: ProviderSettings, definitions: Definitions, only: Option[ModelDefinition])
    extends EagerService
    with SingleInputDynamicComponent[ServiceInvoker]
    with TimeMeasuringService {

  import ModelEnricher._

  override type State = Chosen

  @transient private var connected: EnricherClient = _

  override def nodeDependencies: List[NodeDependency] = List(OutputVariableNameDependency)

  override protected def serviceName: String = only.fold(settings.name)(_.name)

  /** The client; made when it is first asked for, since some engines ask before they open. */
  private[nussknacker] def client: EnricherClient = synchronized {
    if (connected == null) connected = new EnricherClient(settings.connect())
    connected
  }

  override def open(context: EngineRuntimeContext): Unit = {
    super.open(context)
    client
  }

  override def close(): Unit = synchronized {
    try if (connected != null) connected.close()
    finally {
      connected = null
      super.close()
    }
  }

  /** Whether times can be told to the engine. */
  private[nussknacker] def isMeasured: Boolean = timeMeasurement != null

  override def contextTransformation(context: ValidationContext, dependencies: List[NodeDependencyValue])(
      implicit nodeId: NodeId
  ): ContextTransformationDefinition = {
    val output = OutputVariableNameDependency.extract(dependencies)

    def unknown(errors: ProcessCompilationError*): TransformationStepResult =
      FinalResults.forValidation(context, errors.toList)(_.withVariable(output, Unknown, paramName = None))

    def done(chosen: Chosen, errors: List[ProcessCompilationError]): TransformationStepResult =
      FinalResults.forValidation(context, errors, Some(chosen))(_.withVariable(output, chosen.output, paramName = None))

    def fields(model: ModelDefinition, choice: Choice, wantsRaw: Boolean): TransformationStepResult =
      model.signature(choice) match {
        case None =>
          val name = if (only.isEmpty) Some(VersionName) else None
          unknown(CustomNodeError(s"${model.name} has no such version with a signature", name))
        case Some(signature) =>
          val raw    = wantsRaw || signature.getOrigin == Signature.Origin.ORIGIN_MISSING
          val typed  = FieldTypes.record(signature.getOutputsList.asScala.toList, FieldTypes.output)
          val chosen = Chosen(model.name, choice, signature, raw, typed)
          NextParameters(parameters(chosen), state = Some(chosen))
      }

    {
      case TransformationStep(Nil, None) =>
        only match {
          case Some(model) => fields(model, Choice.Default, wantsRaw = false)
          case None        => NextParameters(List(modelParameter), cantList)
        }
      case TransformationStep((ModelName, DefinedEagerParameter(name: String, _)) :: Nil, None) =>
        NextParameters(List(versionParameter(definitions.model(name)), rawParameter))
      case TransformationStep((ModelName, _) :: Nil, None) =>
        NextParameters(List(versionParameter(None), rawParameter))
      case TransformationStep(
            (ModelName, DefinedEagerParameter(name: String, _)) ::
            (VersionName, DefinedEagerParameter(version: String, _)) ::
            (RawName, DefinedEagerParameter(raw: java.lang.Boolean, _)) :: Nil,
            None
          ) =>
        // A model that is not there was told already, by the drop-down itself.
        definitions.model(name).fold(unknown())(fields(_, Choice.parse(version), raw))
      case TransformationStep((ModelName, _) :: (VersionName, _) :: (RawName, _) :: Nil, None) => unknown()
      case TransformationStep(filled, Some(chosen)) =>
        val types = filled.collect { case (name, DefinedLazyParameter(typ)) => name -> typ }.toMap
        if (chosen.raw) {
          val (typ, error) = rawResult(chosen, types.getOrElse(InputName, Unknown))
          done(chosen.copy(output = typ), error.toList)
        } else {
          done(chosen, chosen.signature.getInputsList.asScala.toList.flatMap { field =>
            val name = inputName(field.getName)
            types.get(name).flatMap(FieldTypes.misfit(field.getType, _)).map(CustomNodeError(_, Some(name)))
          })
        }
    }
  }

  private def cantList(implicit nodeId: NodeId): List[ProcessCompilationError] =
    if (definitions.fault.isEmpty) Nil
    else List(CustomNodeError(s"The models could not be read: ${definitions.fault}", Some(ModelName)))

  private def modelParameter: Parameter = dropDown(ModelName, definitions.models.map(_.name).map(name => name -> name))

  private def versionParameter(model: Option[ModelDefinition]): Parameter = {
    val choices = model.toList.flatMap { found =>
      val default = found.signature(Choice.Default).map { _ =>
        Choice.Default.text -> s"default (version ${found.default} now)"
      }
      val aliases = found.aliases.toList.sorted.collect {
        case (alias, version) if found.signature(Choice.Alias(alias)).isDefined =>
          Choice.Alias(alias).text -> s"$alias (version $version now)"
      }
      default.toList ++ aliases ++ found.versions.map { case (version, _) => version -> version }
    }
    dropDown(VersionName, choices)
  }

  private def rawResult(chosen: Chosen, input: TypingResult)(
      implicit nodeId: NodeId
  ): (TypingResult, Option[ProcessCompilationError]) = input.withoutValue match {
    case record: TypedObjectTypingResult =>
      val inputs  = chosen.signature.getInputsList.asScala
      val missing = inputs.filter(field => field.getRequired && !record.fields.contains(field.getName)).map(_.getName)
      val unknown =
        if (chosen.signature.getOrigin == Signature.Origin.ORIGIN_MISSING) Nil
        else record.fields.keys.filterNot(name => inputs.exists(_.getName == name))
      val faults = missing.map(name => s"$name is missing") ++ unknown.map(name => s"$name is no input of the model")
      val error  = if (faults.isEmpty) None else Some(CustomNodeError(faults.mkString("; "), Some(InputName)))
      (chosen.output, error)
    case TypedClass(klass, _) if classOf[java.util.Map[_, _]].isAssignableFrom(klass)  => (chosen.output, None)
    case TypedClass(klass, _) if classOf[java.util.List[_]].isAssignableFrom(klass) =>
      (FieldTypes.list(chosen.output), None)
    case Unknown => (Unknown, None)
    case other =>
      val told = s"A record or a list of records is wanted; this is ${other.display}"
      (Unknown, Some(CustomNodeError(told, Some(InputName))))
  }

  override def implementation(
      params: Params,
      dependencies: List[NodeDependencyValue],
      finalState: Option[Chosen]
  ): ServiceInvoker = {
    val chosen = finalState.getOrElse(throw new IllegalStateException("no model was chosen"))
    new ModelInvoker(this, settings, chosen, params)
  }

}

object ModelEnricher {
  val ModelName: ParameterName    = ParameterName("Model")
  val VersionName: ParameterName  = ParameterName("Version")
  val RawName: ParameterName      = ParameterName("Raw input")
  val InputName: ParameterName    = ParameterName("Input")
  val FallbackName: ParameterName = ParameterName("Fallback")

  private val Reserved = Set(ModelName, VersionName, RawName, InputName, FallbackName)

  /** The field of an input; one that is called as a field of every form is told apart. */
  def inputName(input: String): ParameterName = {
    val name = ParameterName(input)
    if (Reserved(name)) ParameterName(s"$input (input)") else name
  }

  def paramName(param: String): ParameterName = ParameterName(s"$param (parameter)")

  private def dropDown(name: ParameterName, choices: List[(String, String)]): Parameter = {
    // Nothing is chosen at first where there are several.
    val values = choices.map { case (value, label) => FixedExpressionValue(s"'${value.replace("'", "''")}'", label) }
    val first  = if (name == ModelName || values.isEmpty) List(FixedExpressionValue.nullFixedValue) else Nil
    ParameterDeclaration
      .mandatory[String](name)
      .withCreator(modify = _.copy(editor = Some(FixedValuesParameterEditor(first ++ values))))
      .createParameter()
  }

  private val rawParameter: Parameter = ParameterDeclaration
    .mandatory[java.lang.Boolean](RawName)
    .withCreator(
      modify = _.copy(
        editor = Some(BoolParameterEditor),
        defaultValue = Some(Expression.spel("false")),
        hintText = Some("One expression for the whole record")
      )
    )
    .createParameter()

  private def parameters(chosen: Chosen): List[Parameter] = {
    val signature = chosen.signature
    val record    = lazily(InputName, Unknown, required = true, "A record by the names of the inputs, or a list")
    val inputs    = if (chosen.raw) List(record) else signature.getInputsList.asScala.toList.map(field)
    val params    = signature.getParamsList.asScala.toList.map(param)
    val output    = if (chosen.raw) Unknown else chosen.output
    inputs ++ params :+ lazily(FallbackName, output, required = false, "Given where scoring fails")
  }

  private def field(of: Field): Parameter = {
    val hint = FieldTypes.name(of.getType) + (if (of.getDescription.isEmpty) "" else s": ${of.getDescription}")
    lazily(inputName(of.getName), FieldTypes.input(of.getType), of.getRequired, hint)
  }

  private def param(of: Param): Parameter = {
    val typ  = FieldTypes.input(of.getType)
    val list = of.getShapeCount > 0
    Parameter
      .optional(paramName(of.getName), if (list) FieldTypes.list(typ) else typ)
      .copy(
        hintText = Some(s"${if (list) "list of " else ""}${FieldTypes.name(of.getType)}; the model's default if empty"),
        defaultValue = Some(Expression.spel(""))
      )
  }

  private def lazily(name: ParameterName, typ: TypingResult, required: Boolean, hint: String): Parameter = {
    val parameter = if (required) Parameter(name, typ) else Parameter.optional(name, typ)
    // Or a node that lacks the field, since the signature was another one when it was filled, would get the engine's
    // own default for the type, such as zero, without a word.
    parameter.copy(isLazyParameter = true, hintText = Some(hint), defaultValue = Some(Expression.spel("")))
  }

}
