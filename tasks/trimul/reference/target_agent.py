"""The naive start: the definition, operation by operation, in float32."""

if __name__ == "__main__":  # as a harness: all below this block is the submission
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    submission = Path(__file__).read_text(encoding="utf-8").partition("\n# submission.py\n")[2]
    (parser.parse_args().working_dir / "submission.py").write_text(submission, encoding="utf-8")
    raise SystemExit

# submission.py
import torch

EPSILON = 1e-5  # of both norms


def custom_kernel(data):
    x, mask, weights, config = data
    dim, hidden = config["dim"], config["hidden_dim"]
    x = torch.layer_norm(x, (dim,), weights["norm.weight"], weights["norm.bias"], EPSILON)
    left = torch.matmul(x, weights["left_proj.weight"].T)
    right = torch.matmul(x, weights["right_proj.weight"].T)
    left = left * mask.unsqueeze(-1)
    right = right * mask.unsqueeze(-1)
    left = left * torch.matmul(x, weights["left_gate.weight"].T).sigmoid()
    right = right * torch.matmul(x, weights["right_gate.weight"].T).sigmoid()
    gate = torch.matmul(x, weights["out_gate.weight"].T).sigmoid()
    out = torch.einsum("bikd,bjkd->bijd", left, right)
    out = torch.layer_norm(out, (hidden,), weights["to_out_norm.weight"], weights["to_out_norm.bias"], EPSILON)
    return torch.matmul(out * gate, weights["to_out.weight"].T)
