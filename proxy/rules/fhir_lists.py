"""The closed lists that a label or a log line may quote: FHIR R4 (4.0.1), and what Canvas documents.

Taken from the definitions that R4 publishes (profiles-resources.json, search-parameters.json).
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The concrete types: Resource and DomainResource are abstract.
R4_TYPES = _words(
    """
    Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse
    AuditEvent Basic Binary BiologicallyDerivedProduct BodyStructure Bundle CapabilityStatement CarePlan
    CareTeam CatalogEntry ChargeItem ChargeItemDefinition Claim ClaimResponse ClinicalImpression
    CodeSystem Communication CommunicationRequest CompartmentDefinition Composition ConceptMap Condition
    Consent Contract Coverage CoverageEligibilityRequest CoverageEligibilityResponse DetectedIssue
    Device DeviceDefinition DeviceMetric DeviceRequest DeviceUseStatement DiagnosticReport
    DocumentManifest DocumentReference EffectEvidenceSynthesis Encounter Endpoint EnrollmentRequest
    EnrollmentResponse EpisodeOfCare EventDefinition Evidence EvidenceVariable ExampleScenario
    ExplanationOfBenefit FamilyMemberHistory Flag Goal GraphDefinition Group GuidanceResponse
    HealthcareService ImagingStudy Immunization ImmunizationEvaluation ImmunizationRecommendation
    ImplementationGuide InsurancePlan Invoice Library Linkage List Location Measure MeasureReport Media
    Medication MedicationAdministration MedicationDispense MedicationKnowledge MedicationRequest
    MedicationStatement MedicinalProduct MedicinalProductAuthorization MedicinalProductContraindication
    MedicinalProductIndication MedicinalProductIngredient MedicinalProductInteraction
    MedicinalProductManufactured MedicinalProductPackaged MedicinalProductPharmaceutical
    MedicinalProductUndesirableEffect MessageDefinition MessageHeader MolecularSequence NamingSystem
    NutritionOrder Observation ObservationDefinition OperationDefinition OperationOutcome Organization
    OrganizationAffiliation Parameters Patient PaymentNotice PaymentReconciliation Person PlanDefinition
    Practitioner PractitionerRole Procedure Provenance Questionnaire QuestionnaireResponse RelatedPerson
    RequestGroup ResearchDefinition ResearchElementDefinition ResearchStudy ResearchSubject
    RiskAssessment RiskEvidenceSynthesis Schedule SearchParameter ServiceRequest Slot Specimen
    SpecimenDefinition StructureDefinition StructureMap Subscription Substance SubstanceNucleicAcid
    SubstancePolymer SubstanceProtein SubstanceReferenceInformation SubstanceSourceMaterial
    SubstanceSpecification SupplyDelivery SupplyRequest Task TerminologyCapabilities TestReport
    TestScript ValueSet VerificationResult VisionPrescription
    """
)

# Canvas's own: substances to choose from when an AllergyIntolerance is written.
CANVAS_TYPES = _words("Allergen")

RESOURCE_TYPES = R4_TYPES | CANVAS_TYPES

# http://hl7.org/fhir/R4/compartmentdefinition.html
COMPARTMENTS = _words("Device Encounter Patient Practitioner RelatedPerson")

R4_OPERATIONS = _words(
    """
    apply care-gaps closure collect-data conforms convert data-requirements document evaluate-measure
    everything expand find find-matches graph graphql implements lastn lookup match meta meta-add
    meta-delete preferred-id process-message questionnaire snapshot stats submit submit-data subset
    subsumes transform translate validate validate-code versions
    """
)

# `export` is Bulk Data Access; Canvas offers it for one patient as well.
CANVAS_OPERATIONS = _words("add-activity-log-item create-lab-report export send-reset-password-email")

OPERATIONS = R4_OPERATIONS | CANVAS_OPERATIONS

# Where Canvas keeps the bytes of an attachment: [type]/[id]/files/[word].
ATTACHMENTS = _words("content photo presentedForm signature sourceAttachment")

# RFC 8615 names that a FHIR server or its authorization server publishes (SMART App Launch, UDAP, OAuth).
WELL_KNOWN = _words(
    """
    jwks.json oauth-authorization-server oauth-protected-resource openid-configuration
    smart-configuration udap
    """
)

# http://hl7.org/fhir/R4/searchparameter-registry.html, all types together.
SEARCH_PARAMETERS = _words(
    """
    abatement-age abatement-date abatement-string abstract accession account achievement-status action
    active activity-code activity-date activity-reference actor actual actuality additive address
    address-city address-country address-postalcode address-state address-use administered-by agent
    agent-name agent-role agent-type altid appointment appointment-type asserter assessor attester
    authenticator author authored authored-on authoredon authority base base-path based-on basedon
    beneficiary birthdate body-site bodysite business-status care-manager care-team category
    characteristic characteristic-value chromosome chromosome-variant-coordinate
    chromosome-window-coordinate claim class class-type class-value classification classification-type
    clinical-status code code-value-concept code-value-date code-value-quantity code-value-string
    collected collector combo-code combo-code-value-concept combo-code-value-quantity
    combo-data-absent-reason combo-value-concept combo-value-quantity communication component
    component-code component-code-value-concept component-code-value-quantity
    component-data-absent-reason component-value-concept component-value-quantity composed-of
    composition conclusion condition confidentiality connection-type consentor contact container
    container-id container-identifier content-mode content-type contenttype context context-quantity
    context-type context-type-quantity context-type-value country coverage coverage-area created
    criteria criticality custodian data data-absent-reason date datetime datewritten death-date deceased
    definition dependent depends-on dependson derivation derived-from description destination
    destination-uri detail-udi device device-name diagnosis dicom-class disposition domain dose-status
    doseform effective effective-time email empty-reason encounter endpoint entered-date enterer entity
    entity-name entity-role entity-type entry episode-of-care evaluated-resource event event-date
    evidence evidence-detail exclude expansion experimental expiration-date expiry ext-context facility
    factor-override family fhirversion finding-code finding-ref focus form format formula gender
    general-practitioner given global goal group-identifier guide has-member holder id-type identified
    identifier immunization-event implicated incoming-referral individual information ingredient
    ingredient-code input-profile instance instantiates instantiates-canonical instantiates-uri
    insurance insurer intended-dispenser intended-performer intended-performertype intent interpreter
    investigation issued issuer item item-udi jurisdiction keyword kind language last-date length
    lifecycle-status link location location-period lot-number managing-entity manifestation manufacturer
    measure media medication medium member message method modality mode model modified
    monitoring-program-name monitoring-program-type monograph monograph-type morphology name
    name-language near network notes occurrence onset onset-age onset-date onset-info operational-status
    operator oraldiet organization other outcome output-profile owned-by owner parent part-of
    part-status participant participant-role participant-type participating-organization partof path
    patient payee payload payload-type payment-date payment-issuer payment-status payor performer
    performer-actor performer-function performer-type performing-organization period phone phonetic
    policy policy-holder practitioner predecessor prescriber prescription previous price-override
    primary-organization principalinvestigator prior-request priority probability problem procedure-udi
    product program protocol provider publisher purpose quantity questionnaire reaction reaction-date
    reason reason-code reason-given reason-not-given reason-reference received receiver recipient
    recorded recorded-date recorder reference referenceseqid referenceseqid-variant-coordinate
    referenceseqid-window-coordinate referrer related related-id related-ref relatedperson relatesto
    relation relationship replaces reporter request requester requesting-organization requestor
    requisition resource resource-profile response response-id responsible responsibleparty result
    resultingcondition results-interpreter risk role route schedule scope section security-label
    security-service sender sent series seriousness service service-category service-provider
    service-type setting severity sex signature-type signer site slot software source source-code
    source-cost source-reference source-system source-uri special-arrangement specialty specimen sponsor
    stage start start-date started status status-reason study subdetail-udi subject subject-type
    subscriber substance substance-reference subtype successor supplement supplements supplier support
    supported-profile supporting-info system target target-code target-date target-disease
    target-species target-system target-uri telecom tester testscript testscript-capability timestamp
    title topic totalgross totalnet type udi-carrier udi-di url use vaccine-code vaccine-type value
    value-concept value-date value-quantity value-string valueset variant-end variant-start
    verification-status version view when whenhandedover whenprepared window-end window-start
    """
)

# R4 defines these beside the registry, on extensions.
EXTENSION_PARAMETERS = _words(
    """
    age amino-acid-change assessed-condition author birthOrderBoolean din dna-variant effective end
    gene-amino-acid-change gene-dnavariant gene-identifier keyword mothersMaidenName workflow
    """
)

# For every type, and for the shape of the answer (R4 search.html, http.html); last, Bulk Data Access.
COMMON_PARAMETERS = _words(
    """
    _id _lastUpdated _tag _profile _security _source _text _content _list _has _type _query _filter
    _sort _count _include _revinclude _summary _total _elements _contained _containedType
    _format _pretty _since _at
    _outputFormat _typeFilter includeAssociatedData
    """
)

# The input parameters of R4's operations, which a GET carries in the query.
OPERATION_PARAMETERS = _words(
    """
    activeOnly activityDefinition async chargeItem check-system-version client codeA codeB codeSystem
    codeableConcept coding codingA codingB compositional concept conceptMap conceptMapVersion content
    contextDirection count dependency designation display displayLanguage duration end exact
    exclude-system excludeNested excludeNotForUI excludePostCoordinated filter force-system-version
    graph id include includeDefinition includeDesignations input lastReceivedOn left limit max
    measureReport meta offset onlyCertainMatches periodEnd periodStart persist planDefinition profile
    property query reportType response-url reverse right server settingContext statistic supportedOnly
    system-version systemVersion targetsystem userLanguage userTaskContext userType valueSet
    valueSetVersion
    """
)

# Names of Canvas's search pages that R4 lacks or spells otherwise, and its paging.
CANVAS_PARAMETERS = _words(
    """
    _offset birthDate due duration end include-non-schedulable-practitioners label nickname npiNumber
    questionnaire-code questionnaire.code questionnaire.item.code subscriberid
    """
)

PARAMETERS = (
    SEARCH_PARAMETERS | EXTENSION_PARAMETERS | COMMON_PARAMETERS | OPERATION_PARAMETERS | CANVAS_PARAMETERS
)

# R4's value set writes ofType where its text writes of-type; a resource type is a modifier too.
MODIFIERS = _words("above below contains exact identifier in iterate missing not not-in of-type ofType text")
