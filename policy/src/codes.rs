//! The stable codes of complaints, in one table. A code never changes its meaning; new ones are added at the end of their group.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $summary:literal;)*) => {
        $(#[doc = $summary] pub const $name: &str = $code;)*

        /// Every code with what it means.
        pub const TABLE: &[(&str, &str)] = &[$(($code, $summary)),*];
    };
}

codes! {
    SYNTAX = "SKN0001", "The text is neither YAML nor JSON, or exceeds a limit of the reader.";
    SHAPE = "SKN0002", "A document lacks apiVersion, kind, metadata or spec, or one of them has the wrong form.";
    UNKNOWN_KIND = "SKN0003", "The kind is not known.";
    KIND_REFUSED = "SKN0005", "The kind has no place in this mesh; the hint names what to use instead.";
    KUBERNETES = "SKN0006", "An object of Kubernetes: facts for lint, refused by push.";
    NAME = "SKN0007", "A name or namespace is not valid.";
    TOO_LARGE = "SKN0008", "The document exceeds 256 KiB.";
    ANNOTATION = "SKN0009", "An annotation has a value that it cannot have.";
    DUPLICATE_DOCUMENT = "SKN0010", "The same document stands twice.";

    UNKNOWN_FIELD = "SKN0101", "The field does not exist.";
    NOT_SUPPORTED = "SKN0102", "The field is valid and not supported yet: push refuses the document, and lint fails.";
    WRONG_TYPE = "SKN0103", "The value has the wrong type.";
    MISSING = "SKN0104", "A required field is missing.";
    DURATION = "SKN0105", "The value is not a duration, or not one that is allowed here.";
    REGEX = "SKN0106", "The value is not a regular expression, or too large a one.";
    RANGE = "SKN0107", "The number is out of range.";
    WORD = "SKN0108", "The word is not one of those that are allowed here.";
    HOST = "SKN0109", "The host name is not valid.";
    LABEL = "SKN0110", "A label is not valid.";
    EXCLUSIVE = "SKN0111", "Fields that exclude each other are both set.";
    HEADER = "SKN0112", "A header name, value or formatter is not valid.";
    WEIGHT = "SKN0113", "The weights are not valid.";
    DUPLICATE = "SKN0114", "A value stands twice where it must be unique.";
    NO_ACTION = "SKN0115", "A rule says nothing about what happens to the request.";
    EMPTY = "SKN0116", "The value must not be empty.";
    RETRY_ON = "SKN0117", "A word of retryOn is not valid.";
    EXPORT_TO = "SKN0118", "exportTo is not valid.";
    ROLE = "SKN0119", "A key, role or threshold of a RoleSet is not valid.";
    GRANT = "SKN0120", "A NodeGrant or Revocation is not valid.";
    NOT_IN_ISTIO = "SKN0121", "The field exists in Istio's API, and Istio itself refuses it.";
    ADDRESS = "SKN0130", "The value is not an IP address, a host name, or the path of a Unix socket.";
    PROTOCOL = "SKN0131", "The protocol of a port is not known, or does not fit the place.";
    TOO_MANY = "SKN0132", "A list or map has more entries than are allowed.";
    RESOLUTION = "SKN0133", "A field of a ServiceEntry does not fit its resolution.";
    LISTENER = "SKN0134", "The port, address and capture mode of a listener do not fit each other.";
    SERVER_TLS = "SKN0135", "The TLS settings of a server do not fit its port or each other.";
    EGRESS = "SKN0136", "The egress listeners or the outbound policy of a Sidecar are not valid.";
    SELECTOR = "SKN0140", "A selector or a target reference is not valid.";
    ATTRIBUTE = "SKN0141", "The attribute is not known, or may not stand here.";
    PATTERN = "SKN0142", "A pattern of an AuthorizationPolicy is not valid.";
    ACTION = "SKN0144", "The field or annotation does not go with the policy's action.";
    TOKEN_RULE = "SKN0145", "A rule for tokens is not valid.";
    URL = "SKN0146", "The value is not a URL, or not one that is allowed here.";
    EXPRESSION = "SKN0147", "The value is not a CEL expression, or too large a one.";
    PORT_LEVEL = "SKN0148", "Settings of single ports may not stand here.";
    NEVER_VALID = "SKN0149", "The settings contradict each other.";
    LOG_FORMAT = "SKN0150", "The value is not a format string of access logs.";
    SUBNET = "SKN0160", "The value is neither an IP address nor a CIDR block.";
    GATEWAY_NAME = "SKN0161", "The value is not the name of a Gateway.";
    CLAIM_ROUTE = "SKN0162", "Claims are matched where requests enter only: the VirtualService is for callers' proxies.";
    DELEGATE = "SKN0163", "A VirtualService without hosts has what a delegate must not have.";
    SNI = "SKN0164", "A server name of a TLS rule is missing, not valid, or none of the hosts.";
    LOCALITY = "SKN0165", "A locality, its weight or a failover between regions is not valid.";
    MAGLEV = "SKN0166", "The size of a Maglev table is not valid.";
    CLIENT_TLS = "SKN0167", "The certificates of a client's TLS settings do not fit its mode.";
    TARGET = "SKN0168", "The path or authority of a rewrite or redirect is none that a request can have.";
    ENDED = "SKN0169", "The end of the document has passed: it would take no effect.";

    UNREACHABLE_RULE = "SKN0201", "No request reaches the rule.";
    DUPLICATE_MATCH = "SKN0202", "A condition stands twice; the later one has no effect.";
    FAULT_WITHOUT_EXPIRY = "SKN0203", "A fault is injected without an end; annotate skein.dev/expires.";
    FAULT_WITHOUT_EFFECT = "SKN0204", "The fault has no percentage or no error: nothing happens.";
    REDIRECT_CODE = "SKN0205", "The redirect code passes validation and the rule does nothing.";
    LARGE_BODY = "SKN0206", "The body of a direct response exceeds 100 KiB.";
    DEPRECATED = "SKN0207", "The field is deprecated.";
    IGNORED = "SKN0208", "The field has no meaning in this mesh.";
    NO_TRAFFIC = "SKN0209", "A destination among several has no weight: it gets no traffic.";
    PORT_WITHOUT_ADDRESS = "SKN0210", "A TCP port of a service without addresses: its traffic is recognised by the port alone.";
    PARTIAL_WILDCARD = "SKN0212", "A wildcard stands for a part of a label, as Istio discourages.";
    CIPHER_SUITES = "SKN0213", "A cipher suite is unknown, stands twice, or is missing for an old version of TLS.";
    COVERED_HOST = "SKN0214", "Another entry of the list covers the host already.";
    UNMATCHED_LABEL = "SKN0215", "No workload can have such a label: the selector selects nothing.";
    AMBIGUOUS_HOST = "SKN0216", "Several hosts share an address and a port that does not tell them apart.";
    PATH_WITHOUT_SLASH = "SKN0217", "The path of a rewrite or redirect does not begin with `/`; it is read as if it did.";
    BYTES_ONLY = "SKN0218", "Ports of the host carry requests, for which what the DestinationRule says of connections does not count.";
    EMPTY_SELECTOR = "SKN0220", "The selector has no labels: it selects every workload that the namespace allows.";
    DENIES_ALL_TCP = "SKN0221", "The DENY rule has HTTP attributes only: it denies every TCP connection.";
    WITHOUT_EFFECT = "SKN0222", "Istio's rules give the document or the value no effect.";
    ONLY_FIRST = "SKN0223", "Several stand where only the first is used.";
    SNI_ADDRESS = "SKN0230", "A TLS rule matches an address where clients send names.";
    REPEATED_HOST = "SKN0231", "Two of the hosts mean the same service.";
    FAILOVER_IDLE = "SKN0233", "Failover is set without outlier detection: nothing fails over.";
    DELEGATE_MISSING = "SKN0234", "The VirtualService that a rule delegates to does not exist, has hosts or is not exported to it.";
    EJECTS_NOBODY = "SKN0235", "No endpoint is ever ejected: maxEjectionPercent (10 where it is left out) is less than one of them.";

    UNKNOWN_HOST = "SKN0301", "Neither the mesh nor the push defines the destination's host.";
    UNKNOWN_SUBSET = "SKN0302", "Neither the mesh nor the push defines the destination's subset.";
    UNKNOWN_PORT = "SKN0303", "The destination's service has no such port.";
    PORT_REQUIRED = "SKN0304", "The destination's service has several ports and the route names none.";
    CONFLICTING_VIRTUAL_SERVICES = "SKN0305", "Two VirtualServices claim one host; the oldest is used.";
    SUBSET_WITHOUT_ENDPOINTS = "SKN0306", "No endpoint has the subset's labels.";
    RULE_WITHOUT_HOST = "SKN0307", "The host of the DestinationRule, or a VirtualService's host in a service's form, is no service of the mesh.";
    REPEATED_SUBSET = "SKN0308", "Another DestinationRule of the namespace defines the subset; the oldest is used.";
    UNKNOWN_GATEWAY = "SKN0309", "Neither the mesh nor the push defines a Gateway that a VirtualService names.";
    HOST_NOT_AT_GATEWAY = "SKN0310", "A Gateway serves none of the hosts of a VirtualService, or no Gateway serves a host.";
    STRANGE_GATEWAY = "SKN0311", "A condition names a Gateway that its VirtualService does not.";
    TAKEN_AT_GATEWAY = "SKN0312", "An older VirtualService at the Gateway takes all requests that the rule would take.";
    MESH_RULES_NOT_AT_GATEWAY = "SKN0313", "Callers in the mesh have rules for a destination that do not apply to a Gateway's requests.";
    OUTSIDE_SIDECAR = "SKN0314", "The Sidecar of the namespace keeps the VirtualService's hosts from its callers.";
    IMPORTS_NOTHING = "SKN0315", "A Sidecar imports a host that is no service of that namespace.";
    SELECTS_NOBODY = "SKN0316", "No workload has the labels of the selector.";
    SEVERAL_DEFAULTS = "SKN0317", "Several documents of a kind are for the whole namespace; the oldest is used.";
    SEVERAL_FOR_WORKLOAD = "SKN0318", "Several documents of a kind select one workload; the oldest is used.";
    CONFLICTING_GATEWAYS = "SKN0319", "Two servers at the same nodes have one port and host, or cannot share the port; the oldest is used.";
    OVERRULED_POLICY = "SKN0320", "Another DestinationRule of the namespace and host sets a trafficPolicy; the oldest is used.";
    UNKNOWN_CREDENTIAL = "SKN0321", "No credential has this name.";
    SHADOWED_RULE = "SKN0322", "The DestinationRule applies to nobody: another namespace's goes before it.";
    MESH_TLS_OFF = "SKN0323", "The DestinationRule switches the mesh's own mutual TLS off.";
    SYSTEM_ROOTS = "SKN0324", "Servers are verified with the system's roots.";
    DENIED_BEFORE = "SKN0325", "A DENY policy of the same workloads denies all that the ALLOW rule allows.";
    HTTP_RULE_ON_TCP = "SKN0326", "A rule looks at HTTP where its ports speak none.";
    UNKNOWN_NAMESPACE = "SKN0327", "No namespace has this name.";
    HOST_CLAIMED_TWICE = "SKN0328", "Two ServiceEntries make one host.";
    HOST_OF_SERVICE = "SKN0329", "A ServiceEntry makes the host of a registered service, which goes before it.";
    ADDRESS_CLAIMED_TWICE = "SKN0330", "Two ServiceEntries take connections to one address and port.";
    ENDPOINT_ADDRESS = "SKN0331", "An endpoint's address is each caller's own machine, or none at all.";
    REPEATED_ENDPOINT = "SKN0332", "An endpoint of a ServiceEntry stands twice.";
    BEYOND_ROLE = "SKN0333", "The signer has no role where a host lives: the document counts in its own namespace only.";
    UNKNOWN_PROVIDER = "SKN0334", "Neither the mesh nor the push defines the extension provider: what the policy matches is refused, and telemetry goes nowhere.";
    PROVIDER_PORT = "SKN0335", "The service of an extension provider has no port on which it can be asked so.";
    MESH_TLS_OUTSIDE = "SKN0336", "The DestinationRule wants the mesh's own mutual TLS of endpoints that have no identity of the mesh.";
    SIGNING_KEYS = "SKN0337", "Keys of tokens within the document can sign, too: whoever may read policy could make tokens.";
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_distinct_and_ascending() {
        assert!(super::TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
