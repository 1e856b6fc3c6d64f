//! Nothing can be added to an app that was built. Compiled as documentation, in pairs that differ in the order of two
//! lines: what the first of each pair is allowed, the second fails for nothing else.

macro_rules! only_before_it_is_built {
    ($($name:ident: $addition:literal,)*) => {$(
        #[doc = concat!(
            "```\n",
            "let app = payload::App::builder();\n",
            "let app = app.", $addition, ";\n",
            "let app = app.build(axum::Router::new());\n",
            "```\n\n",
            "```compile_fail,E0599\n",
            "let app = payload::App::builder();\n",
            "let app = app.build(axum::Router::new());\n",
            "let app = app.", $addition, ";\n",
            "```"
        )]
        mod $name {}
    )*};
}

only_before_it_is_built! {
    startup: "startup(\"s\", async |_| Ok(()))",
    step: "step(\"s\", async |_| Ok(async || Ok(())))",
    on_drain: "on_drain(\"s\", async |_| Ok(()))",
    teardown: "teardown(\"s\", async |_| Ok(()))",
    payload: "payload(payload::Payload::once(\"p\", async |_| Ok(())))",
    state: "state(1)",
    mount: "mount(\"/m\", payload::App::builder().build(axum::Router::new()))",
    with_peer: "with_peer()",
}
