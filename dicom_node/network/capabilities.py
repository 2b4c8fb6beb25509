"""What this node accepts as a storage SCP: SOP classes, and transfer syntaxes that it can really decode.

Lossy compression is refused by policy: measurements are made on what was acquired. Big endian and deflate are retired
or rare, and offered by no scanner without an alternative.
"""

from __future__ import annotations

import functools

from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    GeneralECGWaveformStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    KeyObjectSelectionDocumentStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    TwelveLeadECGWaveformStorage,
)
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.config import PeerPermission
from dicom_node.network.sop_classes import (
    LabelMapSegmentationStorage,
    ModalityPerformedProcedureStep,
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

__all__ = [
    "DOCUMENT_CLASSES",
    "IMAGE_CLASSES",
    "UNCOMPRESSED",
    "image_transfer_syntaxes",
    "storage_contexts",
    "supported_contexts",
    "verification_context",
]

QUERY_RETRIEVE_CLASSES: tuple[UID, ...] = (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
IMAGE_CLASSES: tuple[UID, ...] = (
    MRImageStorage,
    EnhancedMRImageStorage,
    EnhancedMRColorImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    SecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SegmentationStorage,
    LabelMapSegmentationStorage,
)
DOCUMENT_CLASSES: tuple[UID, ...] = (
    BasicTextSRStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    KeyObjectSelectionDocumentStorage,
    EncapsulatedPDFStorage,
    TwelveLeadECGWaveformStorage,
    GeneralECGWaveformStorage,
    GrayscaleSoftcopyPresentationStateStorage,
)
"""Classes without compressible pixels: uncompressed transfer syntaxes only."""

UNCOMPRESSED: tuple[UID, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_LOSSLESS: tuple[UID, ...] = (
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    RLELossless,
)


@functools.cache
def image_transfer_syntaxes() -> tuple[UID, ...]:
    """Transfer syntaxes accepted for images, the preferred first: those for which a decoder is installed."""
    return (*UNCOMPRESSED, *(syntax for syntax in _LOSSLESS if get_decoder(syntax).is_available))


def verification_context() -> PresentationContext:
    """Presentation context of C-ECHO, for every known peer."""
    return build_context(Verification, list(UNCOMPRESSED))


def storage_contexts() -> list[PresentationContext]:
    """Presentation contexts of C-STORE, for peers that may send."""
    images: list[str | UID] = list(image_transfer_syntaxes())
    return [build_context(uid, images) for uid in IMAGE_CLASSES] + [
        build_context(uid, list(UNCOMPRESSED)) for uid in DOCUMENT_CLASSES
    ]


@functools.cache
def supported_contexts(permissions: frozenset[PeerPermission], *, commitment: bool) -> tuple[PresentationContext, ...]:
    """What a peer may propose; made once, for it takes milliseconds and every association waits for it.

    A peer that may query gets the storage classes in the SCP role, to retrieve by C-GET, whether it may send or not.

    Parameters
    ----------
    commitment
        Whether senders may ask for storage commitment, see ``node.commitment``.
    """
    contexts = [verification_context()]
    sends, receives = PeerPermission.SEND in permissions, PeerPermission.RECEIVE in permissions
    queries = PeerPermission.QUERY in permissions
    if sends or queries:
        for context in storage_contexts():
            if queries:
                context.scu_role, context.scp_role = sends, True
            contexts.append(context)
    if sends:
        contexts.append(build_context(ModalityPerformedProcedureStep, list(UNCOMPRESSED)))
    if queries:
        contexts += [build_context(uid, list(UNCOMPRESSED)) for uid in QUERY_RETRIEVE_CLASSES]
    if receives or (sends and commitment):
        contexts.append(_commitment_context(asks=sends and commitment, reports=receives))
    return tuple(contexts)


def _commitment_context(*, asks: bool, reports: bool) -> PresentationContext:
    """Storage commitment that a sender asks for, or that a destination reports on an association of its own.

    For a report the node is the SCU of the service although it accepts the association (PS3.4 J.3.3), so it agrees to
    both roles: a destination that negotiates its SCP role is served, and so is one that omits the negotiation.
    """
    context = build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))
    context.scu_role, context.scp_role = asks or reports, reports
    return context
