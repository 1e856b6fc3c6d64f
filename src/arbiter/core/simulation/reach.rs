//! Whether the search has been everywhere.

use std::collections::BTreeMap;

/// The search has been everywhere: every bad thing has happened in every stage.
pub(super) fn check_reach(tally: &BTreeMap<String, u32>) {
    let stages = [
        "none",
        "waiting",
        "checking",
        "executing",
        "preparing",
        "trial",
        "retiring",
        "going back",
    ];
    let mut wanted: Vec<String> = [
        "reloaded",
        "failed",
        "paused",
        "resumed",
        "left for idleness",
    ]
    .map(str::to_owned)
    .into();
    for what in [
        "asked again",
        "stopped",
        "old worker ended",
        "new worker ended",
    ] {
        wanted.extend(stages.map(|stage| format!("{what} while {stage}")));
    }
    // While one image goes over to the other, no worker is heard of.
    let heard = ["none", "checking", "preparing", "trial", "retiring"];
    wanted.extend(heard.map(|stage| format!("handed on while {stage}")));
    wanted.push("closed while none".to_owned());
    wanted.extend(["executing", "going back"].map(|stage| format!("exec failed while {stage}")));
    wanted.extend(
        [
            "claimed",
            "lease granted",
            "lease granted again",
            "lease revoked",
            "shares waited",
            "a long gap is told",
            "lease stopped",
            "lease spent",
            "lease finished",
            "lease failed",
            "lease died",
            "lease nottaken",
            "lease unknown",
            "lease undelivered",
            "grant lost",
            "grant not sent",
            "revoked too late",
            "two dead at once",
            "heard by another image",
            "lease paused",
            "degraded by a payload",
            "degraded by an earlier life",
            "lease granted to another generation",
            "kept",
            "kept too late",
            "something kept goes along",
            "something kept is discarded",
        ]
        .map(str::to_owned),
    );
    // Before the first READY there is one generation.
    wanted.retain(|what| what != "old worker ended while waiting");
    let missing: Vec<_> = wanted
        .iter()
        .filter(|what| tally.get(*what).is_none_or(|count| *count < 5))
        .collect();
    assert!(missing.is_empty(), "hardly ever: {missing:?}");
}
