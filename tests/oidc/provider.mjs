// A real OpenID provider for tests: panva's `oidc-provider`, with a few users, on a loopback port.
//
// Takes one argument, JSON: {"port": 0, "host": "127.0.0.1", "claims": "userinfo" | "id_token", "ttl": 300}. Says {"issuer"} on stdout once it
// answers. Everything is in memory, and every redirect to a loopback address of a native client is allowed on any port.
//
//   ada operator · val viewer · root admin · nora nothing        (no passwords: the name is enough)
//   dashboard, with a secret · public, without · robot (client_credentials), a producer; and any that registers itself
//
// For tests only: POST /test/keys {"keep": true | false} signs with a new key from now on, beside or instead of the others.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";

import { Provider } from "oidc-provider";

const { port = 0, host = "127.0.0.1", claims = "userinfo", ttl = 300 } = JSON.parse(process.argv.at(-1));

const USERS = {
  ada: { name: "Ada Lovelace", roles: ["operator"] },
  val: { name: "Val Viewer", roles: ["viewer"] },
  root: { name: "Root", roles: ["admin"] },
  nora: { name: "Nora Nobody", roles: ["cleaner"] },
};
const ROBOT_ROLES = ["producer"];
const SCOPES = ["holdfast:viewer", "holdfast:producer", "holdfast:operator", "holdfast:admin"];

const said = (id) => {
  const user = USERS[id.slice(2)];
  return user && { preferred_username: id.slice(2), email: `${id.slice(2)}@example.org`, ...user, realm_access: { roles: user.roles } };
};

let keys = [];
const addKey = (keep) => {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const key = { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "RS256" };
  keys = keep ? [key, ...keys] : [key];
};
addKey(false);

let issuer;
let provider;
let answer;
const build = () => {
  provider = new Provider(issuer, {
    jwks: { keys },
    clients: [
      {
        client_id: "dashboard",
        client_secret: "dashboard secret: 100% long & odd",
        application_type: "native",
        redirect_uris: ["http://127.0.0.1/login/oidc/callback", "http://localhost/login/oidc/callback"],
      },
      {
        client_id: "public",
        token_endpoint_auth_method: "none",
        application_type: "native",
        grant_types: ["authorization_code", "refresh_token"],
        redirect_uris: ["http://127.0.0.1/login/oidc/callback", "http://127.0.0.1/callback"],
      },
      { client_id: "robot", client_secret: "robot", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] },
    ],
    claims: { openid: ["sub"], profile: ["name", "preferred_username"], email: ["email"], roles: ["roles", "realm_access"] },
    clientBasedCORS: () => true,
    conformIdTokenClaims: claims === "userinfo",
    cookies: { keys: ["of tests only"] },
    extraTokenClaims: (_ctx, token) => (token.accountId ? said(token.accountId) : { roles: ROBOT_ROLES }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      registration: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_ctx, resource) => ({
          accessTokenFormat: "jwt",
          accessTokenTTL: ttl,
          audience: resource,
          jwt: { sign: { alg: "RS256" } },
          scope: SCOPES.join(" "),
        }),
        useGrantedResource: () => true,
      },
      revocation: { enabled: true },
    },
    findAccount: (_ctx, id) => said(id) && { accountId: id, claims: () => ({ sub: id, ...said(id) }) },
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed("refresh_token"),
    scopes: ["openid", "offline_access", "profile", "email", "roles", ...SCOPES],
    ttl: { AccessToken: ttl, AuthorizationCode: 60, ClientCredentials: ttl, Grant: 3600, IdToken: ttl, Interaction: 600, Session: 3600 },
  });
  answer = provider.callback();
};

const form = async (request) => {
  let body = "";
  for await (const part of request) body += part;
  return new URLSearchParams(body);
};

const page = (response, heading, fields) => {
  response.setHeader("Content-Type", "text/html; charset=utf-8");
  response.end(`<!doctype html><html lang="en"><title>${heading}</title><h1>${heading}</h1><form method="post">${fields}
<button name="do" value="go">Continue</button> <button name="do" value="cancel" formnovalidate>Cancel</button></form></html>`);
};

const allow = async (details) => {
  const { grantId, params, prompt, session } = details;
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCClaims = [], missingOIDCScope = [], missingResourceScopes = {} } = prompt.details;
  grant.addOIDCScope(missingOIDCScope.join(" "));
  grant.addOIDCClaims(missingOIDCClaims);
  for (const [resource, scopes] of Object.entries(missingResourceScopes)) grant.addResourceScope(resource, scopes.join(" "));
  return { consent: { grantId: await grant.save() } };
};

const interact = async (request, response) => {
  const details = await provider.interactionDetails(request, response);
  const isLogin = details.prompt.name === "login";
  if (request.method !== "POST") {
    return isLogin
      ? page(response, "Sign in", '<label>Name <input name="name" required autofocus></label>')
      : page(response, "Allow access", "");
  }
  const sent = await form(request);
  let result;
  if (sent.get("do") === "cancel") {
    result = { error: "access_denied", error_description: "the user <b>said no</b>" };
  } else if (isLogin) {
    if (!said(`u-${sent.get("name")}`)) return page(response, "Sign in", '<label>Name <input name="name" required></label> Unknown.');
    result = { login: { accountId: `u-${sent.get("name")}` } };
  } else {
    result = await allow(details);
  }
  return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: !isLogin });
};

const server = createServer(async (request, response) => {
  try {
    if (request.url.startsWith("/interaction/")) {
      await interact(request, response);
    } else if (request.url === "/test/keys" && request.method === "POST") {
      addKey((await form(request)).get("keep") === "true");
      build();
      response.end("{}");
    } else {
      // The same document under the name that OAuth clients ask for (RFC 8414).
      if (request.url === "/.well-known/oauth-authorization-server") request.url = "/.well-known/openid-configuration";
      await answer(request, response);
    }
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error));
  }
});
server.listen(port, "127.0.0.1", () => {
  issuer = `http://${host}:${server.address().port}`;
  build();
  console.log(JSON.stringify({ issuer }));
});
