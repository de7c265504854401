"""Every backbone with every alignment: one step against a slow, dense, independent reference in float64.

Nothing of rlmrec is used in the reference: matrices are dense, losses are loops over the batch as the
formulas have it (docs of each backbone), with repeats written out. Random draws are replayed in the order
in which ``step`` makes them.
"""

import numpy as np
import pytest
import torch

from rlmrec import batch as batch_module
from rlmrec.alignment import Alignment, Contrastive, Distilled, Generative
from rlmrec.alignment.contrastive import ContrastiveConfig
from rlmrec.alignment.generative import GenerativeConfig
from rlmrec.alignment.teacher import TeacherLists
from rlmrec.backbones import BACKBONES, base
from rlmrec.batch import Batch
from rlmrec.data.interactions import Interactions
from rlmrec.graph import Graph
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.training.step import step

U, I, D, DS, LAMBDA = 5, 6, 4, 7, 1e-3
N = U + I
# User 3 and item 5 are isolated, user 1 has one item; users and items repeat in the batch.
TRAIN = Interactions(np.array([0, 0, 0, 1, 2, 2, 4, 4]), np.array([0, 1, 2, 1, 2, 3, 0, 4]), U, I)
BATCH = Batch(
    torch.tensor([0, 0, 1, 2, 4, 0]), torch.tensor([0, 2, 1, 2, 0, 0]), torch.tensor([3, 3, 2, 0, 5, 4])
)
ADJACENCY = torch.zeros(N, N, dtype=torch.float64)
for user, item in zip(TRAIN.users, TRAIN.items, strict=True):
    ADJACENCY[user, U + item] = ADJACENCY[U + item, user] = 1


def normalised(a):
    scale = torch.tensor([d**-0.5 if d else 0.0 for d in a.sum(1).tolist()], dtype=a.dtype)
    return scale[:, None] * a * scale[None, :]


TAU = 0.3
ranking = {"loss": "bpr"}  # the loss of the test that runs: the references below have it in the same place


def bpr(eu, ev):
    if ranking["loss"] != "bpr":
        return softmax(eu, ev)
    return (
        -sum(torch.log(torch.sigmoid(eu[u] @ ev[i] - eu[u] @ ev[j])) for u, i, j in zip(*BATCH, strict=True))
        / 6
    )


def softmax(eu, ev):
    pairs = list(zip(BATCH.users, BATCH.positives, strict=True))
    weights = [1.0] * 6
    if ranking["loss"] == "sl@k":
        best = [sorted(cosine(user, item).item() for item in ev)[-2] for user in eu]
        weights = [torch.sigmoid((cosine(eu[u], ev[i]).detach() - best[u]) / 0.4) for u, i in pairs]
    terms = [w * log_share(eu[u], ev, i, cosine, TAU) for w, (u, i) in zip(weights, pairs, strict=True)]
    return -sum(terms) / sum(weights)


def log_share(user, items, i, similarity, temperature):
    powers = [torch.exp(similarity(user, item) / temperature) for item in items]
    return torch.log(powers[i] / sum(powers))


def cosine(a, b):
    return (a @ b) / (a.norm().clamp(min=1e-12) * b.norm().clamp(min=1e-12))


def info_nce(anchors, positives, candidates, temperature):
    rows = []
    for a, p in zip(anchors, positives, strict=True):
        denominator = sum(torch.exp(cosine(a, c) / temperature) for c in candidates)
        rows.append(-torch.log(torch.exp(cosine(a, p) / temperature) / denominator))
    return sum(rows) / len(rows)


def pick(matrix, rows):
    return [matrix[r] for r in rows]


def distinct(rows):
    return sorted(set(rows.tolist()))


def kept_edges(graph, rate, rng):
    """Which entries of the adjacency the next draw keeps, dense."""
    kept = (graph.drop_edges(rate, rng).values != 0).double()
    return graph.with_values(kept) @ torch.eye(N, dtype=torch.float64)


def layers_of(matrix, x, count):
    layers = [x]
    for _ in range(count):
        layers.append(matrix @ layers[-1])
    return layers


# One function a backbone: (x, its parameters, options, graph to replay draws with, rng)
# → all final embeddings (N, d'), L_R.


def mf(x, p, options, graph, rng):
    return x, bpr(x[:U], x[U:])


def gccf(x, p, options, graph, rng):
    e = torch.cat(
        layers_of(normalised(ADJACENCY + torch.eye(N, dtype=torch.float64)), x, options["layers"]), 1
    )
    return e, bpr(e[:U], e[U:])


def lightgcn(x, p, options, graph, rng):
    matrix = normalised(ADJACENCY) * kept_edges(graph, options["keep_rate"], rng)
    e = sum(layers_of(matrix, x, options["layers"]))
    return e, bpr(e[:U], e[U:])


def sgl(x, p, options, graph, rng):
    clean = normalised(ADJACENCY)
    first, second = (
        sum(layers_of(clean * kept_edges(graph, options["keep_rate"], rng), x, options["layers"]))
        for _ in range(2)
    )
    e = sum(layers_of(clean, x, options["layers"]))
    contrast = sum(
        info_nce(pick(one, rows), pick(two, rows), two, options["cl_temperature"])
        for one, two, rows in (
            (first[:U], second[:U], BATCH.users),
            (first[U:], second[U:], BATCH.positives),
            (first[U:], second[U:], BATCH.negatives),
        )
    )
    return e, bpr(e[:U], e[U:]) + options["cl_weight"] * contrast


def simgcl(x, p, options, graph, rng):
    def view():
        total = layer = x
        for _ in range(options["layers"]):
            layer = normalised(ADJACENCY) @ layer
            r = torch.rand(N, D, generator=rng, dtype=torch.float64)
            layer = layer + options["eps"] * torch.sign(layer) * (r / r.norm(dim=1, keepdim=True))
            total = total + layer
        return total

    first, second = view(), view()
    e = sum(layers_of(normalised(ADJACENCY), x, options["layers"]))
    contrast = sum(
        info_nce(pick(one, rows), pick(two, rows), two, options["cl_temperature"])
        for one, two, rows in (
            (first[:U], second[:U], BATCH.users),
            (first[U:], second[U:], BATCH.positives),
        )
    )
    return e, bpr(e[:U], e[U:]) + options["cl_weight"] * contrast


def ngcf(x, p, options, graph, rng):
    a, layer, layers = normalised(ADJACENCY), x, [x]
    for l in range(options["layers"]):
        sums = (a + torch.eye(N, dtype=a.dtype)) @ layer @ p[f"sums.{l}.weight"].T + p[f"sums.{l}.bias"]
        products = (a @ layer * layer) @ p[f"products.{l}.weight"].T + p[f"products.{l}.bias"]
        layer = sums + products
        layer = torch.where(layer > 0, layer, 0.2 * layer)
        kept = torch.rand(N, D, generator=rng, dtype=torch.float64) < options["keep_rate"]
        layer = torch.where(kept, layer / options["keep_rate"], 0.0)
        layers.append(torch.stack([row / row.norm().clamp(min=1e-12) for row in layer]))
    e = torch.cat(layers, 1)
    return e, bpr(e[:U], e[U:])


def dccf(x, p, options, graph, rng):
    def masked(h, layer):
        rows = []
        for i in range(N):
            weights = {j: (cosine(h[i], h[j]) + 1) / 2 for j in range(N) if ADJACENCY[i, j]}
            mixed = sum((w * layer[j] for j, w in weights.items()), torch.zeros(D, dtype=x.dtype))
            rows.append(mixed / sum(weights.values()) if weights else mixed)
        return torch.stack(rows)

    users, positives = distinct(BATCH.users), [U + i for i in distinct(BATCH.positives)]
    total = layer = x
    contrast = 0
    for _ in range(options["layers"]):
        gnn = normalised(ADJACENCY) @ layer
        intents = torch.cat(
            [
                torch.softmax(part @ w, 1) @ w.T
                for part, w in ((layer[:U], p["user_intents"]), (layer[U:], p["item_intents"]))
            ]
        )
        others = [intents, masked(gnn, layer), masked(intents, layer)]
        for rows in (users, positives):
            for other in others:
                one = info_nce(gnn[rows], other[rows], other[rows], options["cl_temperature"])
                contrast = contrast + one * len(rows) / len(users)  # a sum over rows, by distinct users
        layer = gnn + sum(others) + layer
        total = total + layer
    return total, bpr(total[:U], total[U:]) + options["cl_weight"] * contrast


def autocf(x, p, options, graph, rng):
    # The choice of seeds: sums over 1- and 2-hop neighbourhoods, as the published formulas have them.
    a = ADJACENCY
    n1 = a.sum(1, keepdim=True)
    e1 = a @ x - x
    e2 = a @ e1 - e1 - n1 * x
    n2 = a @ n1 - n1 - n1
    counts = n1 + n2
    neighbourhood = (e1 + e2) / torch.where(counts == 0, 1, counts)
    scores = torch.stack([torch.log(torch.sigmoid(cosine(x[i], neighbourhood[i]))) for i in range(N)])
    scores = scores - torch.log(-torch.log(torch.rand(N, generator=rng, dtype=torch.float64)))
    seeds = scores.argsort(descending=True)[: options["seeds"]].tolist()

    masked = set(seeds)
    if options["mask_depth"] == 2:
        for seed in seeds:
            masked |= {j for j in range(N) if a[seed, j]}
    kept = a.clone()
    for node in masked:
        kept[node, :] = kept[:, node] = 0
    draws = torch.Generator().manual_seed(int(torch.randint(1 << 62, (), generator=rng)))
    pool = sorted(masked | set(torch.randint(N, (int(0.2 * N),), generator=draws).tolist()))
    ends = [torch.randint(len(pool), (int(a.sum()),), generator=draws).tolist() for _ in range(2)]
    decoder = kept + torch.eye(N, dtype=a.dtype)
    for i, j in zip(*ends, strict=True):
        decoder[pool[i], pool[j]] = decoder[pool[j], pool[i]] = 1

    layers = layers_of(normalised(kept), x, options["layers"])
    q, k, v = (layers[-1] @ p[name] for name in ("query", "key", "value"))
    attended, width = [], D // options["heads"]
    for i in range(N):
        row = []
        for h in range(options["heads"]):
            part = slice(h * width, (h + 1) * width)
            weights = {
                j: torch.exp((q[i, part] @ k[j, part]).clamp(-10, 10)) for j in range(N) if decoder[i, j]
            }
            row.append(sum(w * v[j, part] for j, w in weights.items()) / sum(weights.values()))
        attended.append(torch.cat(row))
    e = sum(layers) + torch.stack(attended)

    def lse(rows, candidates):
        return sum(torch.log(sum(torch.exp(row @ c) for c in candidates)) for row in rows) / len(rows)

    eu, ev = e[:U], e[U:]
    attraction = sum(eu[u] @ ev[i] for u, i in zip(BATCH.users, BATCH.positives, strict=True)) / 6
    spread = lse(eu[distinct(BATCH.users)], eu) + lse(ev[distinct(BATCH.positives)], ev)
    loss = -attraction + lse(eu[BATCH.users], ev) + options["ssl_weight"] * spread - scores.mean()
    return e, loss


def kar(p, text_embeddings):
    """x of KAR: each node's embedding beside the gated mix of its experts, merged."""
    rows = []
    for side, text in (("user", text_embeddings.users), ("item", text_embeddings.items)):
        for row, s in enumerate(torch.from_numpy(text).double()):
            gate = torch.softmax(p[f"{side}_experts.gate.weight"] @ s + p[f"{side}_experts.gate.bias"], 0)
            inner = p[f"{side}_experts.inner.weight"] @ s + p[f"{side}_experts.inner.bias"]
            width = len(inner) // len(gate)
            mixed = 0
            for k, g in enumerate(gate):
                hidden = inner[k * width : (k + 1) * width].clamp(min=0)
                mixed = mixed + g * (hidden @ p[f"{side}_experts.outer"][k] + p[f"{side}_experts.bias"][k])
            rows.append(p["merge.weight"] @ torch.cat([p[f"{side}_embedding"][row], mixed]) + p["merge.bias"])
    return torch.stack(rows)


EXPERTS = {"preference_experts": 2, "shared_experts": 1, "expert_size": 3}
REFERENCES = {
    "mf": (mf, {}),
    "gccf": (gccf, {"layers": 2}),
    "lightgcn": (lightgcn, {"layers": 2, "keep_rate": 0.7}),
    "sgl": (sgl, {"layers": 2, "keep_rate": 0.7, "cl_weight": 0.4, "cl_temperature": 0.3}),
    "simgcl": (simgcl, {"layers": 2, "eps": 0.5, "cl_weight": 0.4, "cl_temperature": 0.3}),
    "dccf": (dccf, {"layers": 2, "intents": 3, "cl_weight": 0.4, "cl_temperature": 0.3}),
    "autocf": (autocf, {"layers": 2, "heads": 2, "seeds": 1, "mask_depth": 1, "ssl_weight": 0.4}),
    "autocf, depth 2": (autocf, {"layers": 2, "heads": 2, "seeds": 1, "mask_depth": 2, "ssl_weight": 0.4}),
    "ngcf": (ngcf, {"layers": 2, "keep_rate": 0.8}),
    "kar-lightgcn": (lightgcn, {"layers": 2, "keep_rate": 0.7, **EXPERTS}),
    "kar-sgl": (sgl, {"layers": 2, "keep_rate": 0.7, "cl_weight": 0.4, "cl_temperature": 0.3, **EXPERTS}),
}
# alignment, its negatives, ranking loss
ALIGNED = [
    ("none", "", "bpr"),
    ("none", "", "softmax"),
    ("none", "", "sl@k"),
    ("contrastive", "all-users", "bpr"),
    ("contrastive", "batch", "bpr"),
    ("generative", "", "bpr"),
    ("distilled", "", "bpr"),
    ("distilled", "", "softmax"),
    ("distilled", "", "sl@k"),
]
# User 2 has no list, and the last places of others are empty. The probabilities are exact in binary.
LISTS = TeacherLists(
    np.array([[3, 4, 5], [0, 2, 3], [0, 0, 0], [5, 1, 0], [1, 2, 0]]),
    np.array([[0.5, 0.25, 0.25], [0.625, 0.25, 0.125], [0, 0, 0], [1, 0, 0], [0.75, 0.25, 0]], np.float32),
    "by hand",
    "blocks",
)


def make(name, kind, negatives, loss):
    """A backbone and an alignment in float64, and the alignment's text vectors."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    text_embeddings = TextEmbeddings(
        rng.standard_normal((U, DS)).astype(np.float32), rng.standard_normal((I, DS)).astype(np.float32)
    )
    cls = BACKBONES[name.split(",")[0]]
    text = {"text_embeddings": text_embeddings} if cls.needs_text else {}
    options = {"loss": loss, "loss_temperature": TAU} if loss != "bpr" else {}
    if loss == "sl@k":
        options |= {"loss_k": 2, "loss_weight_temperature": 0.4}
    backbone = cls(U, I, cls.Config(embedding_size=D, **REFERENCES[name][1], **options), **text)
    if kind == "none":
        alignment = Alignment()
    elif kind == "contrastive":
        config = ContrastiveConfig(weight=0.3, temperature=0.2, negatives=negatives)
        alignment = Contrastive(text_embeddings, backbone.output_size, config)
    elif kind == "distilled":
        alignment = Distilled(LISTS, backbone, weight=0.7, temperature=TAU)
    else:
        config = GenerativeConfig(weight=0.3, temperature=0.2, mask_ratio=0.4)
        alignment = Generative(text_embeddings, backbone, config)
        torch.nn.init.normal_(alignment.mask_token)  # zeros at start would hide errors
    return backbone.double(), alignment.double(), text_embeddings


def reference_alignment(kind, alignment, e, p, text_embeddings, masked, with_negatives):
    """L_info from its formulas; p holds the alignment's parameters."""
    config = alignment.config
    if kind == "distilled":
        similarity, tau = (cosine, TAU) if ranking["loss"] != "bpr" else (torch.dot, 1.0)
        listed = [u for u in distinct(BATCH.users) if u != 2]
        total = 0
        for u in listed:
            for i, share in zip(LISTS.items[u], LISTS.probabilities[u], strict=True):
                total = total - float(share) * log_share(e[u], e[U:], i, similarity, tau)
        return config.weight * total / len(listed)

    def projector(x):
        hidden = x @ p["projector.0.weight"].T + p["projector.0.bias"]
        return (
            torch.where(hidden > 0, hidden, 0.01 * hidden) @ p["projector.2.weight"].T + p["projector.2.bias"]
        )

    s_users, s_items = (torch.from_numpy(s).double() for s in (text_embeddings.users, text_embeddings.items))
    if kind == "generative":
        s = torch.cat([s_users, s_items])[masked]
        return config.weight * info_nce(projector(e[masked]), s, s, config.temperature)
    total, everyone = 0, config.negatives == "all-users"
    sides = [(BATCH.users, e[:U], projector(s_users), range(U))]
    sides.append((BATCH.positives, e[U:], projector(s_items), BATCH.positives))
    if with_negatives:
        sides.append((BATCH.negatives, e[U:], projector(s_items), BATCH.negatives))
    for rows, embeddings, text, candidates in sides:
        chosen = pick(text, candidates if everyone else distinct(rows))
        total = total + info_nce(pick(embeddings, rows), pick(text, rows), chosen, config.temperature)
    return config.weight * total


@pytest.mark.parametrize(("kind", "negatives", "loss"), ALIGNED, ids=lambda value: value or "-")
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("form", ["as on the CPU", "as on a GPU", "in micro-batches"])
def test_one_step_equals_the_reference(name, kind, negatives, loss, form, monkeypatch):
    if form == "in micro-batches" and kind not in ("none", "contrastive"):
        pytest.skip("only the ranking loss has micro-batches")
    if name.startswith("autocf") and loss != "bpr":
        pytest.skip("AutoCF has a loss of its own")
    monkeypatch.setitem(ranking, "loss", loss)
    if form == "as on a GPU":
        monkeypatch.setattr(batch_module, "DYNAMIC_DEVICES", ())
    if form == "in micro-batches":
        monkeypatch.setattr(base, "MICRO_BATCH_ROWS", 4)
    backbone, alignment, text_embeddings = make(name, kind, negatives, loss)
    graph = Graph.from_interactions(TRAIN, backbone.self_loops, torch.float64)
    terms = step(backbone, alignment, graph, BATCH, LAMBDA, torch.Generator().manual_seed(9))
    loss = sum(terms.values())
    loss.backward()

    p, q = (
        {n: v.detach().clone().requires_grad_() for n, v in module.named_parameters()}
        for module in (backbone, alignment)
    )
    replay = torch.Generator().manual_seed(9)
    _, masked = alignment.corrupt(backbone.initial(), replay)
    if name.startswith("kar-"):
        x = kar(p, text_embeddings)
    else:
        x = torch.cat([p["user_embedding"], p["item_embedding"]])
    if masked is not None:
        x = torch.stack([q["mask_token"] if i in masked.tolist() else x[i] for i in range(N)])
    function, options = REFERENCES[name]
    e, recommending = function(x, p, options, graph, replay)
    expected = recommending + LAMBDA * sum((v**2).sum() for v in (*p.values(), *q.values()))
    if kind != "none":
        info = reference_alignment(kind, alignment, e, q, text_embeddings, masked, backbone.uses_negatives)
        torch.testing.assert_close(terms[kind], info, rtol=1e-10, atol=0)
        expected = expected + info
    expected.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for module, parameters in ((backbone, p), (alignment, q)):
        for n, parameter in module.named_parameters():
            assert parameter.grad.abs().max() > 0, n
            torch.testing.assert_close(parameter.grad, parameters[n].grad, rtol=1e-8, atol=1e-11, msg=n)


def test_every_backbone_has_a_reference():
    assert set(BACKBONES) <= set(REFERENCES)
