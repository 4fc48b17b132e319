"""Generated from tinker_public.proto by tinkex_actors.wire._proto.generate. Do not edit."""

from google.protobuf import descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()
DESCRIPTOR = POOL.AddSerializedFile(
    b'\n\x13tinker_public.proto\x12\rtinker_public"\x89\x01\n\x06Tensor\x12\x0f\n\x05dense\x18\x01 \x01(\x0cH\x00'
    b'\x12.\n\nsparse_csr\x18\x02 \x01(\x0b2\x18.tinker_public.SparseCsrH\x00\x12#\n\x05dtype\x18\x03 \x01(\x0e2'
    b'\x14.tinker_public.DType\x12\r\n\x05shape\x18\x04 \x03(\x03B\n\n\x08encoding"F\n\tSparseCsr\x12\x0e\n'
    b'\x06values\x18\x01 \x01(\x0c\x12\x14\n\x0ccrow_indices\x18\x02 \x01(\x0c\x12\x13\n\x0bcol_indices\x18\x03 \x01(\x0c"k\n\rBatc'
    b'hedTensor\x12\x0c\n\x04data\x18\x01 \x01(\x0c\x12\x0f\n\x07offsets\x18\x02 \x01(\x0c\x12#\n\x05dtype\x18\x03 \x01(\x0e2\x14.tinker'
    b'_public.DType\x12\x16\n\x0etrailing_shape\x18\x04 \x03(\x03"\xb8\x01\n\x0bArrayRecord\x12\x10\n\x08type_ta'
    b'g\x18\x01 \x01(\t\x126\n\x06fields\x18\x02 \x03(\x0b2&.tinker_public.ArrayRecord.FieldsEntry\x12'
    b'\x12\n\nnum_datums\x18\x03 \x01(\x03\x1aK\n\x0bFieldsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12+\n\x05value\x18\x02 \x01(\x0b2\x1c'
    b'.tinker_public.BatchedTensor:\x028\x01""\n\x10EncodedTextChunk\x12\x0e\n\x06tokens\x18\x01'
    b' \x01(\x0c"0\n\x0fImageDimensions\x12\r\n\x05width\x18\x01 \x01(\r\x12\x0e\n\x06height\x18\x02 \x01(\r"\xb6\x01\n\nImage'
    b'Chunk\x12\x0c\n\x04data\x18\x01 \x01(\x0c\x12\x0e\n\x06format\x18\x02 \x01(\t\x12\x1c\n\x0fexpected_tokens\x18\x03 \x01(\x05H\x00\x88\x01'
    b'\x01\x12@\n\x13override_dimensions\x18\x04 \x01(\x0b2\x1e.tinker_public.ImageDimensionsH\x01'
    b'\x88\x01\x01B\x12\n\x10_expected_tokensB\x16\n\x14_override_dimensions"\x19\n\tDmelChunk\x12\x0c\n\x04'
    b'dmel\x18\x01 \x01(\x0c"\x9f\x01\n\x05Chunk\x127\n\x0cencoded_text\x18\x01 \x01(\x0b2\x1f.tinker_public.Encod'
    b'edTextChunkH\x00\x12*\n\x05image\x18\x02 \x01(\x0b2\x19.tinker_public.ImageChunkH\x00\x12(\n\x04dme'
    b'l\x18\x03 \x01(\x0b2\x18.tinker_public.DmelChunkH\x00B\x07\n\x05chunk"K\n\x14PromptProvenance'
    b'Span\x12\x13\n\x0bsequence_id\x18\x01 \x01(\t\x12\x0e\n\x06offset\x18\x02 \x01(\x03\x12\x0e\n\x06length\x18\x03 \x01(\x03"L\n\x15Sam'
    b'pledProvenanceSpan\x12\x13\n\x0bsequence_id\x18\x01 \x01(\t\x12\x0e\n\x06offset\x18\x02 \x01(\x03\x12\x0e\n\x06lengt'
    b'h\x18\x03 \x01(\x03"\x96\x01\n\x0eProvenanceSpan\x12<\n\rprompt_tokens\x18\x01 \x01(\x0b2#.tinker_publi'
    b'c.PromptProvenanceSpanH\x00\x12>\n\x0esampled_tokens\x18\x02 \x01(\x0b2$.tinker_public'
    b'.SampledProvenanceSpanH\x00B\x06\n\x04span"\xb4\x02\n\x05Datum\x12)\n\x0bmodel_input\x18\x01 \x03(\x0b2'
    b'\x14.tinker_public.Chunk\x12>\n\x0eloss_fn_inputs\x18\x02 \x03(\x0b2&.tinker_public.Da'
    b'tum.LossFnInputsEntry\x128\n\x11model_input_spans\x18\x03 \x03(\x0b2\x1d.tinker_public'
    b'.ProvenanceSpan\x12:\n\x13loss_fn_input_spans\x18\x04 \x03(\x0b2\x1d.tinker_public.Pro'
    b'venanceSpan\x1aJ\n\x11LossFnInputsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12$\n\x05value\x18\x02 \x01(\x0b2\x15.t'
    b'inker_public.Tensor:\x028\x01"<\n\x0fLossConfigValue\x12\x10\n\x06number\x18\x01 \x01(\x01H\x00\x12\x0e\n\x04'
    b'text\x18\x02 \x01(\tH\x00B\x07\n\x05value"\xb8\x03\n\x16ForwardBackwardRequest\x12\x10\n\x08model_id\x18\x01 \x01'
    b'(\t\x12\x0e\n\x06seq_id\x18\x02 \x01(\x05\x12"\n\x04data\x18\x03 \x03(\x0b2\x14.tinker_public.Datum\x12\x0f\n\x07loss_f'
    b'n\x18\x04 \x01(\t\x12O\n\x0eloss_fn_config\x18\x05 \x03(\x0b27.tinker_public.ForwardBackwardR'
    b'equest.LossFnConfigEntry\x12\x14\n\x0cforward_only\x18\x06 \x01(\x08\x12T\n\x11loss_fn_config'
    b'_v2\x18\x07 \x03(\x0b29.tinker_public.ForwardBackwardRequest.LossFnConfigV2E'
    b'ntry\x1a3\n\x11LossFnConfigEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\x01:\x028\x01\x1aU\n\x13Los'
    b'sFnConfigV2Entry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12-\n\x05value\x18\x02 \x01(\x0b2\x1e.tinker_public.Los'
    b'sConfigValue:\x028\x01"\xdd\x01\n\x15ForwardBackwardOutput\x12\x1b\n\x13loss_fn_output_typ'
    b'e\x18\x01 \x01(\t\x123\n\x0floss_fn_outputs\x18\x02 \x03(\x0b2\x1a.tinker_public.ArrayRecord\x12B\n\x07'
    b'metrics\x18\x03 \x03(\x0b21.tinker_public.ForwardBackwardOutput.MetricsEntry'
    b'\x1a.\n\x0cMetricsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\x01:\x028\x01"\x1d\n\x0bStopStrings\x12'
    b'\x0e\n\x06values\x18\x01 \x03(\t"\x1c\n\nStopTokens\x12\x0e\n\x06values\x18\x01 \x03(\x05"\xa5\x02\n\x0eSamplingParams'
    b'\x12\x17\n\nmax_tokens\x18\x01 \x01(\x05H\x01\x88\x01\x01\x12\x11\n\x04seed\x18\x02 \x01(\x04H\x02\x88\x01\x01\x12\x18\n\x0btemperature\x18\x03 \x01('
    b'\x02H\x03\x88\x01\x01\x12\x12\n\x05top_k\x18\x04 \x01(\x05H\x04\x88\x01\x01\x12\x12\n\x05top_p\x18\x05 \x01(\x02H\x05\x88\x01\x01\x12/\n\tstop_strs\x18\x06 \x01('
    b'\x0b2\x1a.tinker_public.StopStringsH\x00\x120\n\x0bstop_tokens\x18\x07 \x01(\x0b2\x19.tinker_pu'
    b'blic.StopTokensH\x00B\x06\n\x04stopB\r\n\x0b_max_tokensB\x07\n\x05_seedB\x0e\n\x0c_temperatur'
    b'eB\x08\n\x06_top_kB\x08\n\x06_top_p"N\n\x0cTopkLogprobs\x12\x11\n\ttoken_ids\x18\x01 \x01(\x0c\x12\x10\n\x08logp'
    b'robs\x18\x02 \x01(\x0c\x12\t\n\x01k\x18\x03 \x01(\r\x12\x0e\n\x06length\x18\x04 \x01(\r"a\n\x0fPromptAltTokens\x12%\n\x06toke'
    b"ns\x18\x01 \x01(\x0b2\x15.tinker_public.Tensor\x12'\n\x08logprobs\x18\x02 \x01(\x0b2\x15.tinker_publi"
    b'c.Tensor"\xd0\x01\n\x0fSampledSequence\x12.\n\x0bstop_reason\x18\x01 \x01(\x0e2\x19.tinker_publi'
    b'c.StopReason\x12\x0e\n\x06tokens\x18\x02 \x01(\x0c\x12\x15\n\x08logprobs\x18\x03 \x01(\x0cH\x00\x88\x01\x01\x12?\n\x15topk_samp'
    b'led_logprobs\x18\x04 \x01(\x0b2\x1b.tinker_public.TopkLogprobsH\x01\x88\x01\x01B\x0b\n\t_logprob'
    b'sB\x18\n\x16_topk_sampled_logprobs"\x9c\x03\n\x0eSampleResponse\x121\n\tsequences\x18\x01 \x03('
    b'\x0b2\x1e.tinker_public.SampledSequence\x12\x1c\n\x0fprompt_logprobs\x18\x02 \x01(\x0cH\x00\x88\x01\x01\x12'
    b'>\n\x14topk_prompt_logprobs\x18\x03 \x01(\x0b2\x1b.tinker_public.TopkLogprobsH\x01\x88\x01\x01\x12'
    b'\x1f\n\x17prompt_cache_hit_tokens\x18\x04 \x01(\x05\x12:\n\x16target_prompt_logprobs\x18\x05 \x01(\x0b'
    b'2\x15.tinker_public.TensorH\x02\x88\x01\x01\x12>\n\x11prompt_alt_tokens\x18\x06 \x01(\x0b2\x1e.tinker'
    b'_public.PromptAltTokensH\x03\x88\x01\x01B\x12\n\x10_prompt_logprobsB\x17\n\x15_topk_prompt'
    b'_logprobsB\x19\n\x17_target_prompt_logprobsB\x14\n\x12_prompt_alt_tokens*g\n\x05DT'
    b'ype\x12\x15\n\x11DTYPE_UNSPECIFIED\x10\x00\x12\x11\n\rDTYPE_FLOAT32\x10\x01\x12\x0f\n\x0bDTYPE_INT64\x10\x02\x12\x0f'
    b'\n\x0bDTYPE_INT32\x10\x03\x12\x12\n\x0eDTYPE_BFLOAT16\x10\x04*:\n\nStopReason\x12\x14\n\x10STOP_REASON'
    b'_STOP\x10\x00\x12\x16\n\x12STOP_REASON_LENGTH\x10\x01b\x06proto3'
)


def _message(name):
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{DESCRIPTOR.package}.{name}"))


Tensor = _message("Tensor")
SparseCsr = _message("SparseCsr")
BatchedTensor = _message("BatchedTensor")
ArrayRecord = _message("ArrayRecord")
EncodedTextChunk = _message("EncodedTextChunk")
ImageDimensions = _message("ImageDimensions")
ImageChunk = _message("ImageChunk")
DmelChunk = _message("DmelChunk")
Chunk = _message("Chunk")
PromptProvenanceSpan = _message("PromptProvenanceSpan")
SampledProvenanceSpan = _message("SampledProvenanceSpan")
ProvenanceSpan = _message("ProvenanceSpan")
Datum = _message("Datum")
LossConfigValue = _message("LossConfigValue")
ForwardBackwardRequest = _message("ForwardBackwardRequest")
ForwardBackwardOutput = _message("ForwardBackwardOutput")
StopStrings = _message("StopStrings")
StopTokens = _message("StopTokens")
SamplingParams = _message("SamplingParams")
TopkLogprobs = _message("TopkLogprobs")
PromptAltTokens = _message("PromptAltTokens")
SampledSequence = _message("SampledSequence")
SampleResponse = _message("SampleResponse")

DTYPE_UNSPECIFIED = 0
DTYPE_FLOAT32 = 1
DTYPE_INT64 = 2
DTYPE_INT32 = 3
DTYPE_BFLOAT16 = 4
STOP_REASON_STOP = 0
STOP_REASON_LENGTH = 1
