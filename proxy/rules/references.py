"""The types that the reference parameters of FHIR R4 (4.0.1) lead to, by a chain or by _include.

Taken from the definitions that R4 publishes (search-parameters.json), less those that may lead to every type.
"""

# A parameter, the types that define it (none: it leads to the same on all that do), > the types it leads to.
_TABLE = """
account > Account
activity-reference > Appointment CommunicationRequest DeviceRequest MedicationRequest NutritionOrder
    RequestGroup ServiceRequest Task VisionPrescription
actor Appointment AppointmentResponse Schedule > Device HealthcareService Location Patient Practitioner
    PractitionerRole RelatedPerson
actor Consent > CareTeam Device Group Organization Patient Practitioner PractitionerRole RelatedPerson
administered-by > Organization
agent > Device Organization Patient Practitioner PractitionerRole RelatedPerson
appointment > Appointment
asserter > Patient Practitioner PractitionerRole RelatedPerson
assessor > Practitioner PractitionerRole
attester > Organization Patient Practitioner PractitionerRole RelatedPerson
authenticator > Organization Practitioner PractitionerRole
author Basic > Organization Patient Practitioner PractitionerRole RelatedPerson
author Composition DocumentManifest DocumentReference QuestionnaireResponse > Device Organization
    Patient Practitioner PractitionerRole RelatedPerson
author DetectedIssue RequestGroup > Device Practitioner PractitionerRole
author Flag > Device Organization Patient Practitioner PractitionerRole
author Linkage > Organization Practitioner PractitionerRole
author MessageHeader > Practitioner PractitionerRole
authority > Organization
base OperationDefinition > OperationDefinition
base StructureDefinition > StructureDefinition
based-on Appointment Encounter > ServiceRequest
based-on CarePlan > CarePlan
based-on DiagnosticReport > CarePlan ImmunizationRecommendation MedicationRequest NutritionOrder
    ServiceRequest
based-on Media Procedure QuestionnaireResponse > CarePlan ServiceRequest
based-on Observation > CarePlan DeviceRequest ImmunizationRecommendation MedicationRequest
    NutritionOrder ServiceRequest
based-on ServiceRequest > CarePlan MedicationRequest ServiceRequest
basedon > Appointment AppointmentResponse CarePlan ServiceRequest Task
beneficiary > Patient
care-manager > Practitioner
care-team CarePlan > CareTeam
care-team Claim ExplanationOfBenefit > Organization Practitioner PractitionerRole
claim > Claim
collector > Practitioner PractitionerRole
component > SearchParameter
composition > Composition
condition > Condition
consentor > Organization Patient Practitioner PractitionerRole RelatedPerson
context > Encounter EpisodeOfCare
coverage > Coverage
coverage-area > Location
custodian > Organization
definition > ActivityDefinition PlanDefinition Questionnaire
depends-on ImplementationGuide > ImplementationGuide
derived-from Observation > DocumentReference ImagingStudy Media MolecularSequence Observation
    QuestionnaireResponse
derived-from SearchParameter > SearchParameter
destination > Location
detail-udi > Device
device DeviceRequest DeviceUseStatement MedicationAdministration > Device
device Media Observation > Device DeviceMetric
diagnosis > Condition Procedure
domain > Location
encounter CarePlan CareTeam Claim ClinicalImpression Communication CommunicationRequest Condition
    ExplanationOfBenefit ImagingStudy Media MedicationRequest QuestionnaireResponse RequestGroup Task >
    Encounter
encounter Composition DeviceRequest DiagnosticReport DocumentReference Flag List NutritionOrder
    Observation Procedure RiskAssessment ServiceRequest VisionPrescription > Encounter EpisodeOfCare
endpoint > Endpoint
enterer ChargeItem > Device Organization Patient Practitioner PractitionerRole RelatedPerson
enterer Claim CoverageEligibilityRequest ExplanationOfBenefit MessageHeader > Practitioner
    PractitionerRole
episode-of-care > EpisodeOfCare
facility > Location
finding-ref > Condition Media Observation
general-practitioner > Organization Practitioner PractitionerRole
global > StructureDefinition
goal > Goal
guide > ImplementationGuide
has-member > MolecularSequence Observation QuestionnaireResponse
holder > Organization
immunization-event > Immunization
incoming-referral > ServiceRequest
individual > Patient
ingredient Medication > Medication Substance
ingredient MedicationKnowledge > Substance
input-profile > StructureDefinition
instantiates-canonical CarePlan Communication FamilyMemberHistory Procedure > ActivityDefinition Measure
    OperationDefinition PlanDefinition Questionnaire
instantiates-canonical DeviceRequest NutritionOrder ServiceRequest > ActivityDefinition PlanDefinition
insurance > ClaimResponse Coverage
insurer > Organization
intended-dispenser > Organization
intended-performer > CareTeam Device Organization Patient Practitioner PractitionerRole RelatedPerson
interpreter > Practitioner PractitionerRole
investigation > DiagnosticReport FamilyMemberHistory ImagingStudy Media Observation
    QuestionnaireResponse RiskAssessment
issuer > Organization
item-udi > Device
link Patient > Patient RelatedPerson
link Person > Patient Person Practitioner RelatedPerson
location > Location
managing-entity > Organization Practitioner PractitionerRole RelatedPerson
manufacturer > Organization
measure > Measure
media > Media
medication > Medication
member > Device Group Medication Patient Practitioner PractitionerRole Substance
message > MessageHeader
monograph > DocumentReference Media
network > Organization
operator > CareTeam Device Organization Patient Practitioner PractitionerRole RelatedPerson
organization > Organization
other > ConceptMap
output-profile > StructureDefinition
owned-by > Organization
owner Account > Organization
owner Task > CareTeam Device HealthcareService Organization Patient Practitioner PractitionerRole
    RelatedPerson
parent DeviceDefinition > DeviceDefinition
parent DeviceMetric > Device
parent MessageDefinition > ActivityDefinition PlanDefinition
parent Specimen > Specimen
part-of CarePlan > CarePlan
part-of Encounter > Encounter
part-of MedicationStatement > MedicationAdministration MedicationDispense MedicationStatement
    Observation Procedure
part-of Observation > ImagingStudy Immunization MedicationAdministration MedicationDispense
    MedicationStatement Procedure
part-of Procedure > MedicationAdministration Observation Procedure
part-of QuestionnaireResponse > Observation Procedure
part-of Task > Task
participant CareTeam > CareTeam Organization Patient Practitioner PractitionerRole RelatedPerson
participant Encounter > Practitioner PractitionerRole RelatedPerson
participant Invoice > Device Organization Patient Practitioner PractitionerRole RelatedPerson
participant RequestGroup > Device Patient Practitioner PractitionerRole RelatedPerson
participating-organization > Organization
partof Location > Location
partof Organization > Organization
partof ResearchStudy > ResearchStudy
patient > Patient
payee > Organization Patient Practitioner PractitionerRole RelatedPerson
payment-issuer > Organization
payor > Organization Patient RelatedPerson
performer CarePlan DeviceRequest ServiceRequest > CareTeam Device HealthcareService Organization Patient
    Practitioner PractitionerRole RelatedPerson
performer DiagnosticReport > CareTeam Organization Practitioner PractitionerRole
performer ImagingStudy > CareTeam Device Organization Patient Practitioner PractitionerRole
    RelatedPerson
performer Immunization > Organization Practitioner PractitionerRole
performer MedicationAdministration > Device Patient Practitioner PractitionerRole RelatedPerson
performer MedicationDispense Procedure > Device Organization Patient Practitioner PractitionerRole
    RelatedPerson
performer Observation > CareTeam Organization Patient Practitioner PractitionerRole RelatedPerson
performer RiskAssessment > Device Practitioner PractitionerRole
performer-actor > CareTeam Device Organization Patient Practitioner PractitionerRole RelatedPerson
performing-organization > Organization
policy-holder > Organization Patient RelatedPerson
practitioner > Practitioner
prescriber > Practitioner PractitionerRole
prescription > MedicationRequest
previous > ClinicalImpression
primary-organization > Organization
principalinvestigator > Practitioner PractitionerRole
problem > AllergyIntolerance Condition
procedure-udi > Device
protocol > PlanDefinition
provider Claim CoverageEligibilityRequest ExplanationOfBenefit PaymentNotice > Organization Practitioner
    PractitionerRole
provider NutritionOrder > Practitioner PractitionerRole
questionnaire > Questionnaire
reaction > Observation
reason-reference Appointment Encounter > Condition ImmunizationRecommendation Observation Procedure
reason-reference Immunization > Condition DiagnosticReport Observation
reason-reference Procedure > Condition DiagnosticReport DocumentReference Observation Procedure
receiver MedicationDispense > Patient Practitioner
receiver MessageHeader > Organization Practitioner PractitionerRole
receiver SupplyDelivery > Practitioner PractitionerRole
recipient Communication CommunicationRequest > CareTeam Device Group HealthcareService Organization
    Patient Practitioner PractitionerRole RelatedPerson
recipient DocumentManifest > Organization Patient Practitioner PractitionerRole RelatedPerson
recipient Invoice > Organization Patient RelatedPerson
recorder > Patient Practitioner PractitionerRole RelatedPerson
referrer > Practitioner PractitionerRole
related-ref Composition > Composition
relatedperson > RelatedPerson
relatesto > DocumentReference
replaces CarePlan > CarePlan
replaces CommunicationRequest > CommunicationRequest
replaces ServiceRequest > ServiceRequest
reporter > Location Organization Practitioner PractitionerRole
request ClaimResponse > Claim
request CoverageEligibilityResponse > CoverageEligibilityRequest
request EnrollmentResponse > EnrollmentRequest
request MedicationAdministration > MedicationRequest
request PaymentReconciliation > Task
requester CommunicationRequest MedicationRequest ServiceRequest SupplyRequest Task > Device Organization
    Patient Practitioner PractitionerRole RelatedPerson
requester DeviceRequest > Device Organization Practitioner PractitionerRole
requesting-organization > Organization
requestor > Organization Practitioner PractitionerRole
resource-profile > StructureDefinition
responsible > Organization Practitioner PractitionerRole
responsibleparty > Practitioner PractitionerRole
result > Observation
resultingcondition > Condition
results-interpreter > CareTeam Organization Practitioner PractitionerRole
schedule > Schedule
sender Communication CommunicationRequest > Device HealthcareService Organization Patient Practitioner
    PractitionerRole RelatedPerson
sender MessageHeader > Organization Practitioner PractitionerRole
service ChargeItem > DiagnosticReport ImagingStudy Immunization MedicationAdministration
    MedicationDispense Observation Procedure SupplyDelivery
service OrganizationAffiliation PractitionerRole > HealthcareService
service-provider > Organization
signer > Organization Patient Practitioner PractitionerRole RelatedPerson
site > Location
slot > Slot
source AuditEvent > Device Organization Patient Practitioner PractitionerRole RelatedPerson
source ConceptMap > ValueSet
source DeviceMetric > Device
source List > Device Patient Practitioner PractitionerRole
source MedicationStatement > Organization Patient Practitioner PractitionerRole RelatedPerson
source QuestionnaireResponse > Patient Practitioner PractitionerRole RelatedPerson
source-reference > Consent Contract DocumentReference QuestionnaireResponse
source-uri > ValueSet
specimen > Specimen
sponsor > Organization
study > ResearchStudy
subdetail-udi > Device
subject Account > Device HealthcareService Location Organization Patient Practitioner PractitionerRole
subject AdverseEvent > Group Patient Practitioner RelatedPerson
subject CarePlan CareTeam ChargeItem ClinicalImpression Communication CommunicationRequest Condition
    DeviceUseStatement Encounter GuidanceResponse Invoice MedicationAdministration MedicationDispense
    MedicationRequest MedicationStatement Procedure RequestGroup RiskAssessment > Group Patient
subject DeviceRequest DiagnosticReport List Observation ServiceRequest > Device Group Location Patient
subject DocumentManifest DocumentReference > Device Group Patient Practitioner
subject EnrollmentRequest > Patient
subject Flag > Group Location Medication Organization Patient PlanDefinition Practitioner Procedure
subject Goal > Group Organization Patient
subject ImagingStudy > Device Group Patient
subject MeasureReport > CareTeam Device Group HealthcareService Location Organization Patient
    Practitioner PractitionerRole RelatedPerson
subject Media > Device Group Location Patient Practitioner PractitionerRole Specimen
subject MedicinalProductAuthorization > MedicinalProduct MedicinalProductPackaged
subject MedicinalProductContraindication MedicinalProductIndication MedicinalProductUndesirableEffect >
    Medication MedicinalProduct
subject MedicinalProductInteraction > Medication MedicinalProduct Substance
subject MedicinalProductPackaged > MedicinalProduct
subject Specimen > Device Group Location Patient Substance
subject SupplyRequest > Location Organization Patient
subscriber > Patient RelatedPerson
substance > Device Immunization Medication MedicationAdministration MedicationStatement Procedure
    Substance
substance-reference > Substance
supplements > CodeSystem
supplier SupplyDelivery > Organization Practitioner PractitionerRole
supplier SupplyRequest > HealthcareService Organization
support > Immunization ImmunizationEvaluation
supported-profile > StructureDefinition
target ConceptMap > ValueSet
target MessageHeader > Device
target-uri > ValueSet
testscript > TestScript
valueset > ValueSet
"""


_ANY = ""  # base: the parameter leads to the same types wherever it is defined


def _read(table: str) -> dict[str, dict[str, frozenset[str]]]:
    read: dict[str, dict[str, frozenset[str]]] = {}
    for line in table.replace("\n    ", " ").strip().split("\n"):
        left, _, right = line.partition(" > ")
        name, *bases = left.split()
        for base in bases or (_ANY,):
            read.setdefault(name, {})[base] = frozenset(right.split())
    return read


_TARGETS = _read(_TABLE)


def targets(base: str, name: str) -> frozenset[str] | None:
    """The types that parameter `name` of type `base` leads to; None: it is not known, or it may be any."""
    by_base = _TARGETS.get(name, {})
    return by_base.get(_ANY) or by_base.get(base)
