package io.prinz.enricher.nussknacker

import com.typesafe.scalalogging.LazyLogging
import io.prinz.enricher.client.{EnricherException, Scorer}
import io.prinz.enricher.values.InvalidRow
import pl.touk.nussknacker.engine.api.exception.NonTransientException
import pl.touk.nussknacker.engine.api.parameter.ParameterName
import pl.touk.nussknacker.engine.api.process.ComponentUseCase
import pl.touk.nussknacker.engine.api.test.InvocationCollectors.ServiceInvocationCollector
import pl.touk.nussknacker.engine.api.{Context, Params, ServiceInvoker}

import java.net.ConnectException
import java.util.concurrent.{CompletableFuture, Executor}
import scala.concurrent.{ExecutionContext, Future, Promise}
import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal
import scala.util.{Failure, Success, Try}

/** Scores the events of one node. */
private[nussknacker] class ModelInvoker(
    enricher: ModelEnricher,
    settings: ProviderSettings,
    chosen: Chosen,
    params: Params
) extends ServiceInvoker
    with Serializable
    with LazyLogging {

  import ModelEnricher._

  private type Outputs = java.util.Map[String, Object]

  @transient private lazy val scorer: Scorer = {
    val values = chosen.signature.getParamsList.asScala.flatMap { param =>
      params.extract[AnyRef](paramName(param.getName)).map(param.getName -> _)
    }
    enricher.client.scorer(
      chosen.choice.of(chosen.model),
      chosen.signature,
      values.toMap.asJava,
      java.util.Collections.emptyList[String](),
      settings.timeout
    )
  }

  @transient private lazy val mock: Outputs =
    Mocks.outputs(chosen.signature, settings.mocks.get(chosen.model))

  override def invoke(context: Context)(
      implicit ec: ExecutionContext,
      collector: ServiceInvocationCollector,
      useCase: ComponentUseCase
  ): Future[Any] = {
    val event =
      if (chosen.raw) value(InputName, context).orNull
      else fields(context)
    // Only tests look at it.
    val mocked =
      if (useCase == ComponentUseCase.EngineRuntime || !settings.mocked) Success(None) else mockOf(event).map(Some(_))
    mocked match {
      case Failure(wrong) => Future.failed(wrong)
      case Success(mock) =>
        collector.collect[AnyRef](event, mock)(measured(score(event))).recoverWith { case NonFatal(failure) =>
          Future.fromTry(instead(failure, context))
        }
    }
  }

  /** A row of the inputs that have a field with something in it: an optional one that is left empty is left out. */
  private def fields(context: Context): Outputs = {
    val row = new java.util.HashMap[String, Object]()
    chosen.signature.getInputsList.forEach { input =>
      val filled = value(inputName(input.getName), context)
      if (filled.isDefined || input.getRequired) row.put(input.getName, filled.orNull)
    }
    row
  }

  // An expression that is left empty is one that gives null.
  private def value(name: ParameterName, context: Context): Option[AnyRef] =
    params.extractOrEvaluateLazyParam[AnyRef](name, context).flatMap(Option(_))

  private def measured[T](score: => Future[T])(implicit ec: ExecutionContext): Future[T] =
    if (enricher.isMeasured) enricher.measuring(score) else score

  private def score(event: AnyRef)(implicit ec: ExecutionContext): Future[AnyRef] = event match {
    case row: java.util.Map[_, _]        => one(row)
    case rows: java.util.Collection[_] =>
      // Each is an event of its own, and they travel together.
      Future.sequence(rows.asScala.toList.map {
        case row: java.util.Map[_, _] => one(row)
        case other => Future.failed(wrong(s"a list of records is wanted, and it holds ${describe(other)}"))
      }).map(answers => new java.util.ArrayList[AnyRef](answers.asJava))
    case other => Future.failed(wrong(s"a record or a list of records is wanted; this is ${describe(other)}"))
  }

  private def one(row: java.util.Map[_, _])(implicit ec: ExecutionContext): Future[AnyRef] = {
    val executor: Executor = (work: Runnable) => ec.execute(work)
    Try(scorer.score(row.asInstanceOf[java.util.Map[String, _]], executor)) match {
      case Success(answer)  => told(answer)
      case Failure(failure) => Future.failed(failure)
    }
  }

  private def told(answer: CompletableFuture[Outputs]): Future[AnyRef] = {
    val promise = Promise[AnyRef]()
    answer.whenComplete { (outputs: Outputs, failure: Throwable) =>
      promise.complete(if (failure == null) Success(outputs) else Failure(failure))
      ()
    }
    promise.future
  }

  private def mockOf(event: AnyRef): Try[AnyRef] =
    Try(mock).map { outputs =>
      event match {
        case rows: java.util.Collection[_] => java.util.Collections.nCopies(rows.size, outputs)
        case _                             => outputs
      }
    }.recover { case wrong: InvalidRow => throw this.wrong(s"what is configured as its mock: ${wrong.getMessage}") }

  /** Gives the fallback for a score that there is none of. A row that does not fit is a fault of the scenario, which no
    * fallback is to hide.
    */
  private def instead(failure: Throwable, context: Context): Try[AnyRef] = failure match {
    case refused: EnricherException if refused.reason == "INVALID_INPUT" => Failure(wrapped(refused))
    case refused: EnricherException =>
      value(FallbackName, context) match {
        case Some(fallback) =>
          logger.warn(s"Fallback for ${chosen.model}: ${refused.getMessage}")
          Success(fallback)
        case None => Failure(wrapped(refused))
      }
    case other => Failure(other)
  }

  private def wrapped(failure: EnricherException): Exception = {
    val told = s"${chosen.model} (${chosen.choice.text}): ${failure.getMessage}"
    if (settings.restartWhenAway && failure.code == "UNAVAILABLE") {
      val away = new ConnectException(told)
      away.initCause(failure)
      away
    } else {
      NonTransientException(input = chosen.model, message = told, cause = failure)
    }
  }

  private def wrong(message: String): NonTransientException =
    NonTransientException(input = chosen.model, message = s"${chosen.model} (${chosen.choice.text}): $message")

  private def describe(value: Any): String = if (value == null) "null" else s"a ${value.getClass.getName}"
}
