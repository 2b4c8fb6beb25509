"""What a peer says of what it refuses, in words that name nobody.

An error comment (0000,0902), an MSA-3 or the line of an HTTP status is free text of another system. It may quote what
it was sent, or what it holds of another patient under the same number, and goes into the ledger and the log. A name can
be any word, and whose it would be is not always known here; so only words that such texts explain refusals with are
kept, and keywords of DICOM attributes. Whatever else was said is an ellipsis, and stands in the log of the peer.
"""

from __future__ import annotations

import re

from pydicom.datadict import tag_for_keyword

__all__ = ["in_few_words"]

LONGEST = 60
"""Characters that are kept."""
_LEFT_OUT = "…"
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_CAMEL = re.compile(r"[A-Z][a-z]*[A-Z][A-Za-z]*")
_PROTOCOL = frozenset({"c-echo", "c-find", "c-get", "c-move", "c-store", "n-action", "n-create", "n-set"})
# No word that is common as a name, such as case, field, key, long, page or young.
_EXPLAIN = """
abort aborted accept acceptable accepted access acknowledge acknowledged action additional administrator after again
all allocate allocated allowed already also an and another any application archive archived are as association attempt
attribute attributes auth authentication authorized available back backend bad be because been before being between
big body both broken buffer busy but by bytes cache called calling can cannot certificate changed character characters
charset class classes client closed code coded coding coerced command commit commitment committed complete compressed
compression configuration configured conflict conflicting connect connection constraint contact content context
control convert corrupt could create created creating data database dataset date deadlock decode decoded decompress
delete deleted denied device did different directory disabled disk does doing done due duplicate duplicated during
either element elements empty enabled encode encoded encoding encounter end enough entity entry error errors event
exceeded exception exist existing exists expected expired explicit failed failure fatal file files find for forbidden
format found frame frames from full general generic group has have header host id identical identification identifier
if ignored illegal image images implicit import in incompatible incomplete incorrect index information inner input
insert inserted instance instances insufficient integrity internal interval invalid io is issuer it item items its
language large ledger left length less limit limited list load local locked log lookup maintenance mandatory mapping
match matched matching maximum memory merge message messages minimum mismatch missing modality move multiple must name
names negotiated network new no node none not null number object objects of off offline old on one only open operation
operator or order ordered orders other out over overflow overwrite padding parameter parse parsed parsing part partial
password patient patients pending permission permitted phase pixel pixels policy position possible present
presentation private problem procedure process processed processing profile protocol quarantine query queue quota read
reading ready reason receive received receiving recognised recognized reconcile record recoverable reference
referenced refused register registered reject rejected rejecting rejection remote report repository request requested
required resource resources response retrieve retry role rules same saved scheduled schema segment send sender sending
sent sequence series server service session set should shut size some sop source space specific specified stack start
state status stopped storage store stored storing string structure studies study support supported syntax system table
tag temporarily temporary terminated than that the their then there this threshold time timed timeout timestamp title
tls to too transaction transfer truncated try type types uid uids unable unauthorized unavailable undefined unexpected
unhandled unidentified unique unknown unprocessed unrecognised unrecognized unsupported until update updated upload
use used user using utf valid validate validated validation value values verified verify version violates violation
volume waiting warning was were when which while with within without worklist write writing written wrong
abgelehnt anfrage angelegt auftrag auftragsnummer ausgelastet bereits bild daten datenbank datum der die
doppelt ein eindeutig eine einem einen entspricht erforderlich erlaubt existiert falsch fehler fehlerhaft
fehlgeschlagen fehlt format gefunden geschlossen gespeichert gesperrt gibt ist kann kein keine konnte leer mehrfach
mit nachricht nicht nummer oder patienten patientennummer patientin platz prozedur schon segment serie sind speicher
speichern studie studien system unbekannt unbekannte unbekannter und ungültig ungültige ungültiger unterstützt
verarbeitet verarbeitung verbindung verweigert vorgang vorhanden wert werte wird wurde zeit zu zugriff zulässig
zuordnung übereinstimmung überschritten
ae aet api cget cmove cstore dcm dicom ecg emr fhir his hl http https iocm ipc jdbc jpeg jpip lut mllp mpps msa
msh mwl obr obx oid orc orm oru oul pacs pdf pdu pid pps ris scp scu sql sr ssl stgcmt stow tcp url vm vna vr wado
xds xml
"""
_KNOWN = frozenset(_EXPLAIN.split())


def in_few_words(said: str) -> str:
    """What a peer said, without figures and without any word that may name somebody, cut short; empty where nothing
    that is known was said.
    """
    words: list[str] = []
    for word in _WORD.findall(said):
        kept = word if _is_known(word) else _LEFT_OUT
        if kept != _LEFT_OUT or words[-1:] != [_LEFT_OUT]:
            words.append(kept)
    if set(words) <= {_LEFT_OUT}:
        return ""
    text = " ".join(words)
    return text if len(text) <= LONGEST else text[: LONGEST + 1].rpartition(" ")[0]


def _is_known(word: str) -> bool:
    plain = word.casefold()
    if plain in _PROTOCOL or all(part in _KNOWN for part in plain.split("-")):
        return True
    # Such as PatientID or StudyInstanceUID, as no name is written.
    return _CAMEL.fullmatch(word) is not None and tag_for_keyword(word) is not None
