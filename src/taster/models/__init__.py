"""Reference architectures, in their usual forms for small images and short texts, and estimators of scikit-learn. To
add one, write it and add it to `MODELS` or `ESTIMATORS`."""

from taster.models.lenet import lenet
from taster.models.mlp import mlp
from taster.models.mobilenet_v2 import mobilenet_v2
from taster.models.resnet import resnet18
from taster.models.sklearn_classifier import sklearn
from taster.models.small_cnn import small_cnn
from taster.models.token_net import token_net
from taster.models.trades_cnn import trades_cnn
from taster.models.vgg import vgg11
from taster.models.vit import vit
from taster.models.wide_resnet import wide_resnet

MODELS = {
    model.__name__: model
    for model in (mlp, lenet, small_cnn, trades_cnn, resnet18, vgg11, mobilenet_v2, wide_resnet, vit, token_net)
}

ESTIMATORS = {"sklearn": sklearn}
"""Models that are no nets, for offline recipes, by name."""

__all__ = [
    "ESTIMATORS",
    "MODELS",
    "lenet",
    "mlp",
    "mobilenet_v2",
    "resnet18",
    "sklearn",
    "small_cnn",
    "token_net",
    "trades_cnn",
    "vgg11",
    "vit",
    "wide_resnet",
]
