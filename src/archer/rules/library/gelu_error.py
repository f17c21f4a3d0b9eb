"""GELU error: the error passes a GELU before it is used.

    e = gelu(u - w S)

Source: Hendrycks 2016, arXiv:1606.08415; negative errors are almost lost, so it cannot subtract
"""

from torch.nn.functional import gelu

parent = "delta_net"
history = ("gelu_on_prediction_error_in_for_loop",)


def correct(e):
    return gelu(e)
