// Going on from the printed module of a stage ends where the whole pipeline ends.
// RUN: mlcflow opt %s --pipeline=reference > %t.whole
// RUN: mlcflow opt %s --pipeline=reference --until=bufferize \
// RUN:   | mlcflow opt --pipeline=reference --start=loops > %t.resumed
// RUN: diff %t.whole %t.resumed

func.func @main(%x: tensor<4xbf16>) -> tensor<4xbf16> {
  %empty = tensor.empty() : tensor<4xbf16>
  %y = linalg.map { math.tanh } ins(%x : tensor<4xbf16>) outs(%empty : tensor<4xbf16>)
  return %y : tensor<4xbf16>
}
