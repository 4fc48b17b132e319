"""Supervised asyncio actors, and on them a complete client and a local engine for the Tinker fine-tuning API.

The layers, each importing only what stands below it::

    cli                              the command line
    clients                          ServiceClient, TrainingClient, SamplingClient, RestClient
    engine | testing                 the local engine (JAX); the public test kit
    actors                           session, sequencer, poller, dispatcher, telemetry: shells around machines
    transport                        the seam to a server: HTTP, or the engine in this process
    wire | machines | tokenizers     codec; pure state machines; text <-> tokens
    config | types | runtime         settings; requests and responses; generic actors
    errors                           one tree

Names load at first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinkex_actors.clients import ApiFuture, RestClient, SamplingClient, ServiceClient, TrainingClient
    from tinkex_actors.config import Config, RetryConfig
    from tinkex_actors.errors import (
        ActorCrashedError,
        ActorError,
        ActorRestartedError,
        ActorStoppedError,
        APIConnectionError,
        APIError,
        APIResponseValidationError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        BillingError,
        CallCycleError,
        CallTimeoutError,
        ClosedError,
        ConfigError,
        ConflictError,
        CredentialsError,
        GoneError,
        InputError,
        InternalServerError,
        LocalWireError,
        LossError,
        MailboxFullError,
        ModelNotInstalledError,
        NonFiniteLossError,
        NotFoundError,
        OutcomeUnknownError,
        PermissionDeniedError,
        RateLimitError,
        RemoteWireError,
        RequestFailedError,
        RestartsExhaustedError,
        SequenceBrokenError,
        ShapeMismatchError,
        StartFailedError,
        StopTimeoutError,
        TinkerError,
        TinkerPathError,
        TinkexError,
        TokenizerNotLoadedError,
        UnprocessableEntityError,
        UnsupportedByServerError,
        WireError,
        WrongLoopError,
    )
    from tinkex_actors.runtime import run
    from tinkex_actors.types import (
        AdamOptimizerConfig,
        AdamParams,
        Checkpoint,
        CheckpointsListResponse,
        CheckpointType,
        ClientConfigRequest,
        ClientConfigResponse,
        ClientDynamicConfigResponse,
        CreateModelRequest,
        CreateModelResponse,
        CreateSamplingSessionRequest,
        CreateSamplingSessionResponse,
        CreateSessionRequest,
        CreateSessionResponse,
        Cursor,
        Datum,
        EncodedTextChunk,
        FinishReason,
        FinishSessionRequest,
        FinishStatus,
        ForwardBackwardInput,
        ForwardBackwardOutput,
        ForwardBackwardRequest,
        FutureRetrieveRequest,
        GenericEvent,
        GetInfoRequest,
        GetInfoResponse,
        GetSamplerResponse,
        GetServerCapabilitiesResponse,
        GetTrainingRunRequest,
        HealthResponse,
        ImageAssetPointerChunk,
        ImageChunk,
        ListCheckpointsRequest,
        ListTrainingRunsRequest,
        LoadWeightsRequest,
        LoadWeightsResponse,
        LoraConfig,
        LossFnOutput,
        LossFnType,
        MetadataOnlyResponse,
        ModelData,
        ModelInput,
        ModelInputChunk,
        OptimStepRequest,
        OptimStepResponse,
        ParsedCheckpointTinkerPath,
        PromptAltTokens,
        QueueState,
        RequestErrorCategory,
        RequestFailedResponse,
        SampledSequence,
        SampleRequest,
        SampleResponse,
        SamplingClientKind,
        SamplingParams,
        SaveWeightsForSamplerRequest,
        SaveWeightsForSamplerResponse,
        SaveWeightsForSamplerResponseInternal,
        SaveWeightsRequest,
        SaveWeightsResponse,
        SessionEndEvent,
        SessionHeartbeatRequest,
        SessionHeartbeatResponse,
        SessionStartEvent,
        Severity,
        StopReason,
        SupportedModel,
        TelemetryEvent,
        TelemetryResponse,
        TelemetrySendRequest,
        TensorData,
        TensorDtype,
        TopkLogprobs,
        TrainingRun,
        TrainingRunsResponse,
        TryAgainResponse,
        UnhandledExceptionEvent,
        UnloadModelRequest,
        UnloadModelResponse,
        UntypedAPIFuture,
        WeightsInfoRequest,
        WeightsInfoResponse,
    )

__version__ = "0.1.0"

_HOMES = {
    "tinkex_actors.clients": "ApiFuture RestClient SamplingClient ServiceClient TrainingClient",
    "tinkex_actors.config": "Config RetryConfig",
    "tinkex_actors.errors": """
        APIConnectionError APIError APIResponseValidationError APIStatusError APITimeoutError
        ActorCrashedError ActorError ActorRestartedError ActorStoppedError AuthenticationError BadRequestError
        BillingError CallCycleError CallTimeoutError ClosedError ConfigError ConflictError CredentialsError
        GoneError InputError InternalServerError LocalWireError LossError MailboxFullError
        ModelNotInstalledError NonFiniteLossError NotFoundError OutcomeUnknownError PermissionDeniedError
        RateLimitError RemoteWireError RequestFailedError RestartsExhaustedError SequenceBrokenError
        ShapeMismatchError StartFailedError StopTimeoutError TinkerError TinkerPathError TinkexError
        TokenizerNotLoadedError UnprocessableEntityError UnsupportedByServerError WireError WrongLoopError
    """,
    "tinkex_actors.runtime": "run",
    "tinkex_actors.types": """
        AdamOptimizerConfig AdamParams Checkpoint CheckpointType CheckpointsListResponse ClientConfigRequest
        ClientConfigResponse ClientDynamicConfigResponse CreateModelRequest CreateModelResponse
        CreateSamplingSessionRequest CreateSamplingSessionResponse CreateSessionRequest CreateSessionResponse
        Cursor Datum EncodedTextChunk FinishReason FinishSessionRequest FinishStatus ForwardBackwardInput
        ForwardBackwardOutput ForwardBackwardRequest FutureRetrieveRequest GenericEvent GetInfoRequest
        GetInfoResponse GetSamplerResponse GetServerCapabilitiesResponse GetTrainingRunRequest HealthResponse
        ImageAssetPointerChunk ImageChunk ListCheckpointsRequest ListTrainingRunsRequest LoadWeightsRequest
        LoadWeightsResponse LoraConfig LossFnOutput LossFnType MetadataOnlyResponse ModelData ModelInput
        ModelInputChunk OptimStepRequest OptimStepResponse ParsedCheckpointTinkerPath PromptAltTokens
        QueueState RequestErrorCategory RequestFailedResponse SampleRequest SampleResponse SampledSequence
        SamplingClientKind SamplingParams SaveWeightsForSamplerRequest SaveWeightsForSamplerResponse
        SaveWeightsForSamplerResponseInternal SaveWeightsRequest SaveWeightsResponse SessionEndEvent
        SessionHeartbeatRequest SessionHeartbeatResponse SessionStartEvent Severity StopReason SupportedModel
        TelemetryEvent TelemetryResponse TelemetrySendRequest TensorData TensorDtype TopkLogprobs TrainingRun
        TrainingRunsResponse TryAgainResponse UnhandledExceptionEvent UnloadModelRequest UnloadModelResponse
        UntypedAPIFuture WeightsInfoRequest WeightsInfoResponse
    """,
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "ActorCrashedError",
    "ActorError",
    "ActorRestartedError",
    "ActorStoppedError",
    "AdamOptimizerConfig",
    "AdamParams",
    "ApiFuture",
    "AuthenticationError",
    "BadRequestError",
    "BillingError",
    "CallCycleError",
    "CallTimeoutError",
    "Checkpoint",
    "CheckpointType",
    "CheckpointsListResponse",
    "ClientConfigRequest",
    "ClientConfigResponse",
    "ClientDynamicConfigResponse",
    "ClosedError",
    "Config",
    "ConfigError",
    "ConflictError",
    "CreateModelRequest",
    "CreateModelResponse",
    "CreateSamplingSessionRequest",
    "CreateSamplingSessionResponse",
    "CreateSessionRequest",
    "CreateSessionResponse",
    "CredentialsError",
    "Cursor",
    "Datum",
    "EncodedTextChunk",
    "FinishReason",
    "FinishSessionRequest",
    "FinishStatus",
    "ForwardBackwardInput",
    "ForwardBackwardOutput",
    "ForwardBackwardRequest",
    "FutureRetrieveRequest",
    "GenericEvent",
    "GetInfoRequest",
    "GetInfoResponse",
    "GetSamplerResponse",
    "GetServerCapabilitiesResponse",
    "GetTrainingRunRequest",
    "GoneError",
    "HealthResponse",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "InputError",
    "InternalServerError",
    "ListCheckpointsRequest",
    "ListTrainingRunsRequest",
    "LoadWeightsRequest",
    "LoadWeightsResponse",
    "LocalWireError",
    "LoraConfig",
    "LossError",
    "LossFnOutput",
    "LossFnType",
    "MailboxFullError",
    "MetadataOnlyResponse",
    "ModelData",
    "ModelInput",
    "ModelInputChunk",
    "ModelNotInstalledError",
    "NonFiniteLossError",
    "NotFoundError",
    "OptimStepRequest",
    "OptimStepResponse",
    "OutcomeUnknownError",
    "ParsedCheckpointTinkerPath",
    "PermissionDeniedError",
    "PromptAltTokens",
    "QueueState",
    "RateLimitError",
    "RemoteWireError",
    "RequestErrorCategory",
    "RequestFailedError",
    "RequestFailedResponse",
    "RestClient",
    "RestartsExhaustedError",
    "RetryConfig",
    "SampleRequest",
    "SampleResponse",
    "SampledSequence",
    "SamplingClient",
    "SamplingClientKind",
    "SamplingParams",
    "SaveWeightsForSamplerRequest",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsForSamplerResponseInternal",
    "SaveWeightsRequest",
    "SaveWeightsResponse",
    "SequenceBrokenError",
    "ServiceClient",
    "SessionEndEvent",
    "SessionHeartbeatRequest",
    "SessionHeartbeatResponse",
    "SessionStartEvent",
    "Severity",
    "ShapeMismatchError",
    "StartFailedError",
    "StopReason",
    "StopTimeoutError",
    "SupportedModel",
    "TelemetryEvent",
    "TelemetryResponse",
    "TelemetrySendRequest",
    "TensorData",
    "TensorDtype",
    "TinkerError",
    "TinkerPathError",
    "TinkexError",
    "TokenizerNotLoadedError",
    "TopkLogprobs",
    "TrainingClient",
    "TrainingRun",
    "TrainingRunsResponse",
    "TryAgainResponse",
    "UnhandledExceptionEvent",
    "UnloadModelRequest",
    "UnloadModelResponse",
    "UnprocessableEntityError",
    "UnsupportedByServerError",
    "UntypedAPIFuture",
    "WeightsInfoRequest",
    "WeightsInfoResponse",
    "WireError",
    "WrongLoopError",
    "__version__",
    "run",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'tinkex_actors' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
