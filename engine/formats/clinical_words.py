"""Words that are no names by themselves: particles and titles, places' common words, anatomy.

``PARTICLES`` and ``PLACEHOLDERS`` are never looked for, and ``GENERIC`` words not where they name a
place. A ``CLINICAL`` word is not taken for a name that it begins with or holds ("sternum" and
Stern); somebody who is called exactly so is found. All are in the form of
:func:`engine.formats.spellings.folded`.
"""

from __future__ import annotations

from engine.formats.spellings import folded


def _words(said: str) -> frozenset[str]:
    return frozenset(map(folded, said.split()))


PARTICLES = _words(
    "de la le du des del della di da dos das do van von vom der den dem zu zur zum ter ten te "
    "und and et y e i al el il bin ibn abu bint ben bat af av san st dr prof med dent mr mrs "
    "ms miss mme mlle herr frau sir jr sr ii iii iv md phd mag dipl ing univ mudr"
)
PLACEHOLDERS = _words(
    "anon anonym anonymous anonymized anonymised unknown unbekannt inconnu none test patient"
)
#: Of the names of hospitals and of numbers with a word in them.
GENERIC = _words(
    "anon anonym anonymous anonymized anonymised unknown unbekannt inconnu none test patient tests "
    "patients patientid patid case name removed default null study series image images exam "
    "phantom klinik klinikum kliniken clinic clinics clinica clinique hospital hospitals hopital "
    "krankenhaus spital universitat university universitair universitats medical medizin medicine "
    "center centre zentrum institut institute institution radiologie radiology praxis department "
    "abteilung general city street strasse road avenue lane platz place house state country "
    "germany deutschland france england austria schweiz japan china korea town example north south "
    "east west saint sankt health care service group imaging diagnostic diagnostics diagnostik "
    "orthopedic orthopadie surgery chirurgie cardiology kardiologie neurologie neurology pediatric "
    "children womens veterans memorial community regional national central system systems siemens "
    "philips toshiba canon hitachi fujifilm agfa carestream hologic samsung shimadzu konica"
)
CLINICAL = _words(
    "abdomen abdominal acquisition adrenal angio angiography ankle anterior anterolateral "
    "aorta aortic appendix arterial artery atlas axial becken bladder brain breast bronchus "
    "brust calcaneus carotid cardiac cerebral cervical cervix chest clavicle coccyx colon "
    "contrast corona coronal coronary cranial derived diaphragm diffusion doppler dorsal "
    "dorsum duodenum elbow ellenbogen esophagus exposure extremity femur fibula finger flair "
    "fluoroscopy foramen frontal gallbladder gelenk gradient halswirbelsaule handgelenk heart "
    "helical hirn humerus image inferior intestine inversion kidney kiefer kopf kranial "
    "larynx lateral left leber ligament linear liver localizer longitudinal lumbar lumen "
    "lungen magnitude mamma mandible marker maxilla mediastinum mediolateral meniscus "
    "monochrome native neck niere oblique oesophagus original orbita ovary palatum pancreas "
    "parallel patella pelvis perfusion phase portal posterior primary prostate proton "
    "pulmonary radius rechts rectum renal resampled right sacrum sagittal scapula schadel "
    "schulter secondary sequence shoulder skull spine spin spinal spleen standard static "
    "sternum stomach superior supine prone surface symphysis temporal thoracic thorax thyroid "
    "tibia tissue trachea transverse ulna urethra uterus venous ventral vertebra wirbelsaule "
    "wrist zahn"
)
#: Words and abbreviations of two letters that texts are full of, where they are in small letters.
SHORT_WORDS = _words(
    "li re ap pa ll rl lr cc ml an am as at be by do go he if in is it me my no of oh on or so to "
    "up us we ab da du er es ob um wo zu au ce de en et il je la le ma ne ni on ou sa se si su ta "
    "te tu un va al el lo mi no os ya yo di ed io lo ha ho mm cm kv ma ms hz mg kg bw lw re ca "
    "va ve vs ax ex sp st ts tr pp op ct mr us xa"
)
_TERMS = (
    "AP PA LL RL RLD LLD RLO LLO CC MLO ML LM XCC L R B U M F O Y N YES NO CT MR US PT NM "
    "CR DX MG XA RF OT ES XC SM OP IO PX HFS HFP FFS FFP HFDR HFDL FFDR FFDL SE GR IR EP "
    "RM SK SP SS OSP MP NONE 2D 3D ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER "
    "OTHER"
)
#: Values of coded attributes that are terms of the standard, whatever a patient is called.
TERMS = frozenset(_TERMS.split())
