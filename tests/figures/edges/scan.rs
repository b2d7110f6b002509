//! What a scanner's whole report says against a TLS server.

use serde_json::Value;

/// Protocols that no server should speak any more.
const WEAK_PROTOCOLS: [&str; 4] = ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"];
/// Those that it should, and of which the suites are looked at.
const PROTOCOLS: [&str; 2] = ["tls_1_2", "tls_1_3"];
/// In the name of a suite that gives no forward secrecy, no authenticated encryption, or none at all.
const WEAK_SUITES: [&str; 8] = ["_CBC_", "_RC4_", "_3DES_", "_NULL_", "_anon_", "_EXPORT", "TLS_RSA_WITH", "_MD5"];
/// Questions with one answer: the scan, what of its result is asked, and the answer of a server that is well.
const ANSWERS: [(&str, &str, bool); 9] = [
    ("tls_compression", "supports_compression", false),
    ("tls_1_3_early_data", "supports_early_data", false),
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", false),
    ("heartbleed", "is_vulnerable_to_heartbleed", false),
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", false),
    ("session_renegotiation", "supports_secure_renegotiation", true),
    ("tls_fallback_scsv", "supports_fallback_scsv", true),
    ("tls_extended_master_secret", "supports_ems_extension", true),
    ("elliptic_curves", "supports_ecdh_key_exchange", true),
];

/// What is found in sslyze's report of one server. A question that was not answered is a finding, too.
pub(super) fn findings(report: &Value) -> Vec<String> {
    let scan = &report["server_scan_results"][0]["scan_result"];
    let mut found = Vec::new();
    for protocol in WEAK_PROTOCOLS {
        match scan[format!("{protocol}_cipher_suites")]["result"]["is_tls_version_supported"].as_bool() {
            Some(false) => {}
            told => found.push(format!("{protocol}: {}", told.map_or("not told", |_| "spoken"))),
        }
    }
    for protocol in PROTOCOLS {
        let accepted = scan[format!("{protocol}_cipher_suites")]["result"]["accepted_cipher_suites"].as_array();
        let names = accepted.into_iter().flatten().filter_map(|suite| suite["cipher_suite"]["name"].as_str());
        let names: Vec<&str> = names.collect();
        if names.is_empty() {
            found.push(format!("{protocol}: not spoken, or not told"));
        }
        let weak = names.iter().filter(|name| WEAK_SUITES.iter().any(|part| name.contains(part)));
        found.extend(weak.map(|name| format!("{protocol}: {name}")));
    }
    for (of, question, well) in ANSWERS {
        match scan[of]["result"][question].as_bool() {
            Some(answer) if answer == well => {}
            told => found.push(format!("{of}: {question} {}", told.map_or("not told".to_owned(), |it| it.to_string()))),
        }
    }
    match scan["robot"]["result"]["robot_result"].as_str() {
        Some(told) if told.starts_with("NOT_VULNERABLE") => {}
        told => found.push(format!("robot: {}", told.unwrap_or("not told"))),
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn well() -> Value {
        let spoken = |names: &[&str]| {
            let suites: Vec<Value> = names.iter().map(|name| json!({"cipher_suite": {"name": name}})).collect();
            json!({"result": {"is_tls_version_supported": !names.is_empty(), "accepted_cipher_suites": suites}})
        };
        let mut scan = json!({"robot": {"result": {"robot_result": "NOT_VULNERABLE_NO_ORACLE"}}});
        for protocol in WEAK_PROTOCOLS {
            scan[format!("{protocol}_cipher_suites")] = spoken(&[]);
        }
        scan["tls_1_2_cipher_suites"] = spoken(&["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]);
        scan["tls_1_3_cipher_suites"] = spoken(&["TLS_AES_128_GCM_SHA256"]);
        for (of, question, answer) in ANSWERS {
            scan[of]["result"][question] = answer.into();
        }
        json!({"server_scan_results": [{"scan_result": scan}]})
    }

    #[test]
    fn each_question_has_one_good_answer() {
        assert_eq!(findings(&well()), [] as [String; 0]);
        let of = |change: &dyn Fn(&mut Value)| {
            let mut report = well();
            change(&mut report["server_scan_results"][0]["scan_result"]);
            findings(&report)
        };
        let weak = json!({"result": {"is_tls_version_supported": true}});
        assert_eq!(of(&|scan| scan["tls_1_0_cipher_suites"] = weak.clone()), ["tls_1_0: spoken"]);
        let cbc = json!([{"cipher_suite": {"name": "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"}}]);
        let found = of(&|scan| scan["tls_1_2_cipher_suites"]["result"]["accepted_cipher_suites"] = cbc.clone());
        assert_eq!(found, ["tls_1_2: TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"]);
        let found = of(&|scan| scan["heartbleed"]["result"]["is_vulnerable_to_heartbleed"] = true.into());
        assert_eq!(found, ["heartbleed: is_vulnerable_to_heartbleed true"]);
        assert_eq!(of(&|scan| scan["robot"] = Value::Null), ["robot: not told"]);
        assert!(findings(&Value::Null).len() > 10, "what was not told is not well");
    }
}
