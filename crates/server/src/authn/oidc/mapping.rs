//! How the claims of a token become a user: by naming claims, or by CEL expressions over `claims` (KEP-3331).

use super::config::{Extra, Jwt, Mapped, Rule, UserRule};
use crate::authn::UserInfo;
use caravel_cel::{Activation, Budget, Environment, MATCH_CONDITIONS_BUDGET, Program, Ty, Val};
use serde_json::{Value, json};
use std::collections::HashSet;

/// What one value of a user is made from.
#[derive(Clone, Debug)]
enum Source {
    Claim { claim: String, prefix: String },
    Expression(Program),
}

/// What a token must satisfy.
#[derive(Clone, Debug)]
enum Demand {
    Claim { claim: String, value: String },
    Expression { program: Program, message: String },
}

/// The rules of one issuer, ready for use.
#[derive(Clone, Debug)]
pub struct Mapping {
    demands: Vec<Demand>,
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Program)>,
    user_demands: Vec<(Program, String)>,
}

fn claims_environment() -> Environment {
    Environment::new([("claims", Ty::Dyn)])
}

impl Mapping {
    /// Checks and compiles what the file says of an issuer.
    ///
    /// # Errors
    /// What is wrong, with its field.
    pub fn of(jwt: &Jwt) -> Result<Self, String> {
        let mappings = &jwt.claim_mappings;
        let at = "claimMappings";
        let demands = jwt.claim_validation_rules.iter().enumerate();
        let demands = demands.map(|(i, rule)| demand(rule).map_err(|why| format!("claimValidationRules[{i}].{why}")));
        let optional = |field: &str, mapped: &Option<Mapped>, prefixed: bool| {
            mapped.as_ref().map(|m| source(m, prefixed).map_err(|why| format!("{at}.{field}.{why}"))).transpose()
        };
        let user_rules = jwt.user_validation_rules.iter().enumerate();
        let found = Self {
            demands: demands.collect::<Result<_, _>>()?,
            username: source(&mappings.username, true).map_err(|why| format!("{at}.username.{why}"))?,
            groups: optional("groups", &mappings.groups, true)?,
            uid: optional("uid", &mappings.uid, false)?,
            extra: extras(&mappings.extra)?,
            user_demands: user_rules
                .map(|(i, rule)| user_demand(rule).map_err(|why| format!("userValidationRules[{i}].{why}")))
                .collect::<Result<_, _>>()?,
        };
        found.email_is_verified()?;
        Ok(found)
    }

    /// Whoever makes names of email addresses must look whether they are verified.
    fn email_is_verified(&self) -> Result<(), String> {
        let Source::Expression(username) = &self.username else { return Ok(()) };
        if !names(username.source(), "email") {
            return Ok(());
        }
        let rules = self.demands.iter().filter_map(|d| match d {
            Demand::Expression { program, .. } => Some(program.source()),
            Demand::Claim { .. } => None,
        });
        let extra = self.extra.iter().map(|(_, program)| program.source());
        if rules.chain(extra).chain([username.source()]).any(|source| names(source, "email_verified")) {
            return Ok(());
        }
        Err(format!(
            "claimMappings.username.expression: Invalid value: {:?}: claims.email_verified must be used in \
             claimMappings.username.expression or claimMappings.extra[*].valueExpression or \
             claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            username.source()
        ))
    }

    /// The user that claims make.
    ///
    /// # Errors
    /// Which rule they do not satisfy.
    pub fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        for demand in &self.demands {
            demand.check(claims)?;
        }
        let name = self.username.one(claims)?.filter(|name| !name.is_empty()).ok_or("the username is empty")?;
        let by_email = matches!(&self.username, Source::Claim { claim, .. } if claim == "email");
        if by_email && claims.get("email_verified").is_some_and(|v| *v != Value::Bool(true)) {
            return Err("the email address of the token is not verified".into());
        }
        let mut user = UserInfo { name, ..UserInfo::default() };
        if let Some(groups) = &self.groups {
            user.groups = groups.all(claims)?;
        }
        if let Some(uid) = &self.uid {
            user.uid = uid.one(claims)?.unwrap_or_default();
        }
        for (key, program) in &self.extra {
            let values = texts(&evaluate(program, "claims", claims)?, program.source())?;
            let values: Vec<String> = values.into_iter().filter(|v| !v.is_empty()).collect();
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        let seen = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        for (program, message) in &self.user_demands {
            holds(program, "user", &seen, message)?;
        }
        Ok(user)
    }
}

impl Demand {
    fn check(&self, claims: &Value) -> Result<(), String> {
        match self {
            Self::Claim { claim, value } if claims.get(claim).and_then(Value::as_str) == Some(value) => Ok(()),
            Self::Claim { claim, value } => Err(format!("required claim {claim:?} must be {value:?}")),
            Self::Expression { program, message } => holds(program, "claims", claims, message),
        }
    }
}

impl Source {
    /// A single text; `None` when the claim or the value is absent.
    fn one(&self, claims: &Value) -> Result<Option<String>, String> {
        match self {
            Self::Claim { claim, prefix } => {
                let value = claims.get(claim).and_then(Value::as_str).filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| format!("the token has no claim {claim:?} with a text"))?;
                Ok(Some(format!("{prefix}{value}")))
            }
            Self::Expression(program) => match evaluate(program, "claims", claims)? {
                Value::String(text) => Ok(Some(text)),
                Value::Null => Ok(None),
                _ => Err(format!("expression '{}' did not yield a string", program.source())),
            },
        }
    }

    /// A text or a list of them.
    fn all(&self, claims: &Value) -> Result<Vec<String>, String> {
        match self {
            Self::Claim { claim, prefix } => {
                let found = claims.get(claim).map_or(Ok(vec![]), |value| texts(value, claim))?;
                Ok(found.iter().map(|text| format!("{prefix}{text}")).collect())
            }
            Self::Expression(program) => texts(&evaluate(program, "claims", claims)?, program.source()),
        }
    }
}

fn evaluate(program: &Program, variable: &str, value: &Value) -> Result<Value, String> {
    let failed = |why: String| format!("expression '{}' resulted in error: {why}", program.source());
    let mut activation = Activation::new();
    activation.set(variable, Val::json(value));
    let found =
        program.evaluate(&activation, &Budget::new(MATCH_CONDITIONS_BUDGET)).map_err(|e| failed(e.to_string()))?;
    match &found {
        Val::Optional(inner) => Ok(inner.as_ref().and_then(|v| v.to_json()).unwrap_or_default()),
        found => found.to_json().ok_or_else(|| failed("its value has no JSON form".into())),
    }
}

fn holds(program: &Program, variable: &str, value: &Value, message: &str) -> Result<(), String> {
    match evaluate(program, variable, value)? {
        Value::Bool(true) => Ok(()),
        Value::Bool(false) if message.is_empty() => Err(format!("validation expression '{}' failed", program.source())),
        Value::Bool(false) => Err(format!("validation expression '{}' failed: {message}", program.source())),
        _ => Err(format!("validation expression '{}' did not yield a bool", program.source())),
    }
}

fn texts(value: &Value, of: &str) -> Result<Vec<String>, String> {
    let text =
        |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| format!("{of:?} yields something else than texts"));
    match value {
        Value::Null => Ok(vec![]),
        Value::Array(all) => all.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

/// Whether an expression reads `claims.FIELD`.
fn names(source: &str, field: &str) -> bool {
    let path = format!("claims.{field}");
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    source.match_indices(&path).any(|(at, _)| !source[at + path.len()..].starts_with(part))
        || source.contains(&format!("claims[\"{field}\"]"))
        || source.contains(&format!("claims['{field}']"))
        || source.contains(&format!("claims.?{field}"))
}

fn compile(field: &str, environment: &Environment, source: &str, wanted: &[Ty]) -> Result<Program, String> {
    let wrong = |why: String| format!("{field}: Invalid value: {source:?}: {why}");
    let program = environment.compile(source).map_err(|e| wrong(format!("compilation failed: {e}")))?;
    if wanted.iter().any(|ty| program.may_be(ty)) {
        return Ok(program);
    }
    let wanted: Vec<String> = wanted.iter().map(Ty::to_string).collect();
    Err(wrong(format!("must evaluate to {}", wanted.join(" or "))))
}

fn source(mapped: &Mapped, prefixed: bool) -> Result<Source, String> {
    match (mapped.claim.as_str(), mapped.expression.as_str()) {
        ("", "") => Err("claim: Required value: claim or expression is required".into()),
        ("", expression) => {
            if mapped.prefix.is_some() {
                return Err("prefix: Invalid value: prefix can't be set when expression is set".into());
            }
            let wanted = [Ty::String, Ty::List(Box::new(Ty::String).into())];
            compile("expression", &claims_environment(), expression, &wanted).map(Source::Expression)
        }
        (claim, "") => match &mapped.prefix {
            None if prefixed => {
                Err("prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing".into())
            }
            Some(_) if !prefixed => Err("prefix: Invalid value: this value takes no prefix".into()),
            prefix => Ok(Source::Claim { claim: claim.to_owned(), prefix: prefix.clone().unwrap_or_default() }),
        },
        _ => Err("claim: Invalid value: claim and expression can't both be set".into()),
    }
}

fn demand(rule: &Rule) -> Result<Demand, String> {
    match (rule.claim.as_str(), rule.expression.as_str()) {
        ("", "") => Err("claim: Required value: claim or expression is required".into()),
        (claim, "") if rule.message.is_empty() => {
            Ok(Demand::Claim { claim: claim.to_owned(), value: rule.required_value.clone() })
        }
        (_, "") => Err("message: Invalid value: message can't be set when claim is set".into()),
        ("", expression) if rule.required_value.is_empty() => {
            let program = compile("expression", &claims_environment(), expression, &[Ty::Bool])?;
            Ok(Demand::Expression { program, message: rule.message.clone() })
        }
        ("", _) => Err("requiredValue: Invalid value: requiredValue can't be set when expression is set".into()),
        _ => Err("claim: Invalid value: claim and expression can't both be set".into()),
    }
}

fn user_demand(rule: &UserRule) -> Result<(Program, String), String> {
    if rule.expression.trim().is_empty() {
        return Err("expression: Required value: expression is required".into());
    }
    let environment = Environment::new([("user", Ty::Dyn)]);
    Ok((compile("expression", &environment, &rule.expression, &[Ty::Bool])?, rule.message.clone()))
}

fn extras(all: &[Extra]) -> Result<Vec<(String, Program)>, String> {
    let (mut out, mut seen) = (vec![], HashSet::new());
    for (i, extra) in all.iter().enumerate() {
        let at = format!("claimMappings.extra[{i}]");
        let wrong = |why: &str| Err(format!("{at}.key: Invalid value: {:?}: {why}", extra.key));
        let Some((domain, path)) = extra.key.split_once('/') else {
            return wrong("must be a domain-prefixed path (such as \"acme.io/foo\")");
        };
        if path.is_empty() || !caravel_api::names::dns1123_subdomain(domain).is_empty() {
            return wrong("must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        if extra.key.chars().any(char::is_uppercase) {
            return wrong("must be lowercase");
        }
        let reserved = |name: &str| domain == name || domain.ends_with(&format!(".{name}"));
        if reserved("k8s.io") || reserved("kubernetes.io") {
            return wrong("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
        }
        if !seen.insert(&extra.key) {
            return Err(format!("{at}.key: Duplicate value: {:?}", extra.key));
        }
        let wanted = [Ty::String, Ty::List(Box::new(Ty::String).into())];
        let program = compile("valueExpression", &claims_environment(), &extra.value_expression, &wanted)
            .map_err(|why| format!("{at}.{why}"))?;
        out.push((extra.key.clone(), program));
    }
    Ok(out)
}
